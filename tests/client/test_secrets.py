"""client: no key and no personal data in any text that others may read (P10)."""

import copy
import logging
import pickle
from collections.abc import Awaitable, Callable

import anyio
import httpx
import pytest

from perkamo import AsyncPerkamoClient, PerkamoClient, PerkamoConfigurationError, PerkamoError, RetryPolicy
from perkamo.sandbox import Delay, Lost, Reset, Sandbox, Status, Truncate
from tests.canary import CANARY_EMAIL, CANARY_KEY, CanaryHandler, find_canary, frames

pytestmark = pytest.mark.anyio

Call = Callable[[AsyncPerkamoClient], Awaitable[object]]
CALLS: list[tuple[str, Call]] = [
    ("identify", lambda client: client.identify(CANARY_EMAIL, {"email": CANARY_EMAIL})),
    ("emit", lambda client: client.emit(CANARY_EMAIL, "e", {"email": CANARY_EMAIL}, transaction_id=CANARY_EMAIL)),
    ("batch", lambda client: client.batch([{"user_id": CANARY_EMAIL, "event": "e", "transaction_id": CANARY_EMAIL}])),
    ("customer", lambda client: client.customer(CANARY_EMAIL)),
    ("token", lambda client: client.create_browser_token("pk_test_x", CANARY_EMAIL)),
    ("request", lambda client: client.request("POST", "/v1/rewards/redeem", {"user_id": CANARY_EMAIL})),
]


@pytest.fixture
def canary_client(sandbox: Sandbox) -> AsyncPerkamoClient:
    """A client whose key is the canary; the sandbox refuses it, which is an answer like any other."""
    return AsyncPerkamoClient(CANARY_KEY, base_url=sandbox.base_url, retry=RetryPolicy.none(), timeout=5)


FAULTS = [None, Status(500), Status(302), Lost(), Reset(before="apply"), Reset(after="apply"), Truncate(3)]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize(("name", "call"), CALLS, ids=[name for name, _ in CALLS])
async def test_no_key_is_in_any_frame_of_an_error(
    name: str, call: Call, fault: Status | None, canary_client: AsyncPerkamoClient, sandbox: Sandbox
) -> None:
    """What Sentry would collect from each failure holds no key; catches a header or a key in a local variable."""
    if fault is not None:
        sandbox.faults.rate(1.0, fault, seed=1)

    async with canary_client:
        with pytest.raises(PerkamoError) as caught:
            await call(canary_client)

    sandbox.faults.clear()
    shown = [text for text in frames(caught.value) if CANARY_KEY in text]
    assert shown == []
    assert find_canary(str(caught.value)) is None
    assert find_canary(repr(caught.value)) is None


async def test_no_key_is_in_any_frame_of_a_cancelled_call(sandbox: Sandbox) -> None:
    """A cancellation carries its traceback, too; catches frames of the connection with their headers."""
    sandbox.faults.next("POST /v1/events", Delay(30))
    client = AsyncPerkamoClient(CANARY_KEY, base_url=sandbox.base_url)
    seen: list[str] = []

    async def emit() -> None:
        try:
            await client.emit("u", "e")
        except BaseException as error:
            seen.extend(frames(error))
            raise

    async with client:
        with anyio.move_on_after(0.3):
            await emit()

    assert seen
    assert [text for text in seen if CANARY_KEY in text] == []
    sandbox.faults.clear()


async def test_a_working_call_logs_what_an_operator_needs_and_no_more(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Method, endpoint, status, attempt, wait and request id are logged; no id, no key, not even by httpx at DEBUG."""
    caplog.set_level(logging.DEBUG)
    sandbox.faults.next("GET /v1/customer/{user_id}", Status(503))
    policy = RetryPolicy(base_delay=0.001)

    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=policy) as client:
        customer = await client.customer(CANARY_EMAIL)

    ours = [record.getMessage() for record in caplog.records if record.name == "perkamo"]
    assert ours[0].startswith("GET /v1/customer/{user_id}: PerkamoServerError 503; attempt 2 follows in 0.")
    assert ours[1] == f"GET /v1/customer/{{user_id}}: 200 (attempt 2, request id {customer.meta.request_id})"
    httpx_lines = {record.getMessage() for record in caplog.records if record.name == "httpx"}
    assert httpx_lines == {"HTTP Request: GET /v1/customer/{user_id}"}
    everything = "\n".join(record.getMessage() + repr(record.__dict__) for record in caplog.records)
    assert find_canary(everything) is None
    assert sandbox.api_key not in everything


async def test_other_users_of_httpx_keep_their_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Outside our calls httpx logs as ever; catches a filter that swallows foreign records."""
    caplog.set_level(logging.INFO)
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(204))) as client:
        await client.get("https://other.test/path")

    assert 'HTTP Request: GET https://other.test/path "HTTP/1.1 204 No Content"' in caplog.messages


@pytest.mark.parametrize("wrong", [{"base_url": "ftp://x"}, {"timeout": -1}], ids=repr)
@pytest.mark.parametrize("cls", [AsyncPerkamoClient, PerkamoClient])
def test_a_failed_construction_shows_no_key(
    cls: type[AsyncPerkamoClient] | type[PerkamoClient], wrong: dict[str, object]
) -> None:
    """The key is an argument of the constructor, whose frame is shown; catches a key that stays in that frame."""
    with pytest.raises(PerkamoConfigurationError) as caught:
        cls(CANARY_KEY, **wrong)  # type: ignore[arg-type]  # wrong on purpose

    assert [text for text in frames(caught.value) if CANARY_KEY in text] == []


def test_no_repr_of_a_client_shows_the_key() -> None:
    """repr, str, format and vars of the client and what hangs on it; catches an attrs repr of the key."""
    client = AsyncPerkamoClient(CANARY_KEY)

    parts = [client, client._exchange, client._exchange.sender, *vars(client._exchange.sender).values()]
    texts = [text for part in parts for text in (repr(part), str(part), format(part))]
    texts += [repr(vars(part)) for part in (client, client._exchange.sender)]

    assert [text for text in texts if CANARY_KEY in text] == []
    assert repr(client) == "<AsyncPerkamoClient https://api.perkamo.com>"


@pytest.mark.parametrize("kind", [AsyncPerkamoClient, PerkamoClient])
@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_a_client_goes_into_no_pickle_and_has_no_copies(
    way: Callable[[object], object], kind: type[AsyncPerkamoClient | PerkamoClient]
) -> None:
    """A task queue is told what to do instead; catches a key in its store, or a copy that shares sockets."""
    with pytest.raises(TypeError, match="neither pickled nor copied: build one where it is needed"):
        way(kind(CANARY_KEY))


def test_the_search_finds_what_it_looks_for() -> None:
    """The handler and the frame walk see a planted canary; catches a scan that can't fail."""
    handler = CanaryHandler()
    handler.emit(logging.makeLogRecord({"msg": "user %s", "args": (CANARY_EMAIL,)}))
    handler.emit(logging.makeLogRecord({"msg": "fine", "extra_key": CANARY_KEY}))
    handler.emit(logging.makeLogRecord({"msg": "fine"}))
    code = compile(f"key = {CANARY_KEY!r}\nraise ValueError('x')", "planted.py", "exec")

    with pytest.raises(ValueError, match="x") as caught:
        exec(code, {})

    assert len(handler.seen) == 2
    assert any(CANARY_KEY in text for text in frames(caught.value))
