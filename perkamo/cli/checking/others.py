"""Questions of batches, redemptions, tokens and the customer's stream."""

from typing import Final
from uuid import uuid4

import anyio
import httpx

from perkamo.cli.checking import shapes
from perkamo.cli.checking.findings import CONFIRMED
from perkamo.cli.checking.shapes import JsonObject
from perkamo.cli.checking.writing import MISSING, Writer
from perkamo.encoding.encode import JSONValue
from perkamo.encoding.parse import parse
from perkamo.events import MAX_BATCH_EVENTS
from perkamo.request.endpoints import MAX_TTL_SECONDS, STREAM_PATH, customer_stream
from perkamo.stream.sse import EventStreamDecoder, ServerSentEvent

BATCH: Final = "/v1/events:batch"
REDEEM: Final = "/v1/rewards/redeem"
TOKENS: Final = "/v1/browser-tokens"
STREAM_SECONDS: Final = 5.0
"""How long to wait for the stream's next event."""
_OF_TOKENS: Final = (*shapes.TOKEN, "token.endpoint", "token.lifetime", "token.wrong_key", "stream", "stream.resume")


async def ask_batches(writer: Writer, counted: JsonObject) -> None:
    """Ask with batches.

    Args:
        writer: Makes and sends events.
        counted: An event that has counted.
    """

    async def send(*events: JsonObject) -> tuple[int, list[JSONValue] | None]:
        answer = await writer.caller.post(BATCH, {"events": [*events]})
        results = answer.json.get("results") if isinstance(answer.json, dict) else None
        return answer.status, results if isinstance(results, list) else None

    findings = writer.findings
    status, results = await send(writer.new(), writer.new())
    if status in MISSING:
        findings.add("endpoints", f"{BATCH} answers {status}")
        return
    findings.add("batch.status", CONFIRMED if status == 200 else str(status))
    fine = results is not None and len(results) == 2
    findings.expect("batch.results", fine, f"two events are answered with {status}, without a list of two items")
    if results is None or not fine:
        return
    counts = all(_accepted(result) for result in results)
    status, results = await send(writer.new(context={"xp": 1}), writer.new(), writer.new())
    if results is None or len(results) != 3:
        findings.add("batch.failed_item", "refused whole" if 400 <= status < 500 else f"answers {status}")
    elif counts:
        _failed_item(writer, results)
    twin = writer.new()
    _, results = await send(twin, twin)
    second = None if not results else results[-1]
    if results is None:
        findings.add("batch.repeated", "is refused whole")
    elif _accepted(second):
        findings.add("batch.repeated", CONFIRMED)
    elif not findings.differs("duplicate.answer"):
        findings.add("batch.repeated", "failed item")
    most, results = await send(*[counted] * MAX_BATCH_EVENTS)
    more, _ = await send(*[counted] * (MAX_BATCH_EVENTS + 1))
    fine = 200 <= most < 300 and results is not None and len(results) == MAX_BATCH_EVENTS and 400 <= more < 500
    findings.expect("batch.size", fine, f"{MAX_BATCH_EVENTS} are answered with {most}, one more with {more}")


def _failed_item(writer: Writer, results: list[JSONValue]) -> None:
    """Record the results of an invalid event and two valid ones after it."""
    match [_accepted(result) for result in results]:
        case [True, True, True]:
            writer.findings.add("batch.failed_item", "is taken")
        case [False, True, True]:
            writer.findings.add("batch.failed_item", shapes.failed_item(results[0]))
        case [False, False, False]:
            writer.findings.add("batch.failed_item", "fails the others, too")
        case _:
            writer.findings.add("batch.results", "has the items in another order")


async def ask_redeem(writer: Writer, counted: JsonObject) -> None:
    """Ask for a redemption without a reward, and for one with a transaction id that has counted."""
    lacking = await writer.caller.post(
        REDEEM, {"user_id": writer.customer, "transaction_id": f"perkamo_check_{uuid4().hex}"}
    )
    writer.findings.add("redeem", "missing" if lacking.status in MISSING else CONFIRMED)
    if not writer.plan.rewards or lacking.status in MISSING:
        return
    wish: JsonObject = {
        "user_id": writer.customer,
        "reward": writer.plan.rewards[0],
        "transaction_id": counted["transaction_id"],
    }
    answer = await writer.caller.post(REDEEM, wish)
    match answer.json if answer.ok else None:
        case {"applied": bool(), "wallet_state": dict()}:
            writer.findings.add("redeem.answer", CONFIRMED)
        case {"reward": _}:
            writer.findings.add("redeem.answer", "reward only")
        case _:
            writer.findings.add("redeem.answer", None, f"it is answered with {answer.status}")


async def ask_tokens(writer: Writer, browser_key: str | None) -> None:
    """Ask for tokens, and with one of them for the customer's stream."""
    findings = writer.findings
    if browser_key is None:
        for name in _OF_TOKENS:
            findings.add(name, None, "needs PERKAMO_BROWSER_KEY")
        return
    wish: JsonObject = {"browser_key": browser_key, "user_id": writer.customer}
    browser = await writer.caller.post(TOKENS, wish)
    stream = await writer.caller.post(TOKENS, {**wish, "purpose": "stream"})
    too_long = await writer.caller.post(TOKENS, {**wish, "ttl_seconds": MAX_TTL_SECONDS + 1})
    wrong = await writer.caller.post(TOKENS, {**wish, "browser_key": "pk_test_perkamo_check"})
    findings.expect(
        "token.endpoint", browser.ok and too_long.refused, f"answers {browser.status} and {too_long.status}"
    )
    findings.add("token.wrong_key", CONFIRMED if wrong.status == 403 else str(wrong.status))
    token, for_stream = browser.json, stream.json
    if not isinstance(token, dict) or not isinstance(for_stream, dict):
        return
    for name, question in shapes.TOKEN.items():
        findings.add(name, question(token))
    lifetimes = [one.get("expires_in") for one in (token, for_stream)]
    numbers = all(type(one) in (int, float) for one in lifetimes)
    found = CONFIRMED if lifetimes == [600, 120] else "300 s" if lifetimes == [300, 300] else "other lifetimes"
    findings.add("token.lifetime", found if numbers else None)
    await _ask_stream(writer, str(for_stream.get("token")))


async def _ask_stream(writer: Writer, token: str) -> None:
    first = await _next_event(writer, token, None)
    if not isinstance(first, ServerSentEvent):
        writer.findings.add("stream", first)
        return
    writer.findings.expect("stream", isinstance(_json(first.data), dict), "its data is not an object")
    await writer.send(writer.new())
    second = await _next_event(writer, token, first.id)
    resumed = isinstance(second, ServerSentEvent) and second.id != first.id
    writer.findings.add("stream.resume", CONFIRMED if resumed else None)


async def _next_event(writer: Writer, token: str, last_event_id: str | None) -> ServerSentEvent | str:
    """Open the stream and return its first event, or why there is none."""
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {token}"}
    if last_event_id is not None:
        headers["last-event-id"] = last_event_id
    url = writer.caller.base_url + customer_stream(writer.customer, STREAM_PATH).path
    decoder = EventStreamDecoder()
    try:
        with anyio.fail_after(STREAM_SECONDS):
            async with writer.caller.http.stream("GET", url, headers=headers, follow_redirects=False) as response:
                if response.status_code != 200:
                    return f"answers {response.status_code}"
                async for chunk in response.aiter_bytes():
                    for event in decoder.feed(chunk):
                        return event
    except (httpx.HTTPError, TimeoutError) as error:
        return type(error).__name__
    return "ends without an event"


def _accepted(item: JSONValue) -> bool:
    return isinstance(item, dict) and (item.get("applied") is True or item.get("duplicate") is True)


def _json(text: str) -> JSONValue:
    try:
        return parse(text.encode())
    except ValueError:
        return None
