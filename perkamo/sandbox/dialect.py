"""A sandbox with other answers than we assume: each assumption about unpublished behaviour may turn out to be wrong.

The table of facts, ``perkamo.contract``, lists the alternatives to each assumption.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Final

from attrs import evolve

from perkamo.contract import FACTS
from perkamo.sandbox import checks
from perkamo.sandbox.checks import CheckError, EventInput, RedeemInput, TokenInput
from perkamo.sandbox.ledger import Ledger
from perkamo.sandbox.messages import Headers, Json, JsonObject, Request, Response, json_response
from perkamo.sandbox.program import Program
from perkamo.sandbox.routes import Place
from perkamo.sandbox.shapes import CUSTOMER, CUSTOMER_ANSWER, ERROR, FAILED_ITEM, PROGRAM, Shape
from perkamo.sandbox.space import EVENT_FIELDS, Space
from perkamo.sandbox.tokens import IdMaker

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    name: fact.alternatives for name, fact in FACTS.items() if fact.alternatives
}
"""Each fact that has alternatives, and these."""

OTHER_TTL_SECONDS: Final = 300
OTHER_SKEW_SECONDS: Final = 900


class DialectError(ValueError):
    """The fact or its alternative does not exist; the text lists those that exist."""


class Dialect:
    """The chosen alternatives, at most one for each fact.

    Args:
        chosen: Names of facts, and the alternative of each, such as ``{"customer.perks": "texts"}``.

    Raises:
        DialectError: The fact or its alternative does not exist.
    """

    def __init__(self, chosen: Mapping[str, str]) -> None:
        for name, alternative in chosen.items():
            known = CHOICES.get(name)
            if known is None:
                close = get_close_matches(name, CHOICES, n=1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(CHOICES)}"
                raise DialectError(f"{name!r} can't be chosen: {hint}")
            if alternative not in known:
                raise DialectError(f"{name} can't be {alternative!r}: it takes {', '.join(known)}")
        self._chosen = dict(chosen)

    def get(self, name: str) -> str | None:
        """Return the alternative that was chosen for a fact, or None."""
        return self._chosen.get(name)

    def has(self, name: str, alternative: str) -> bool:
        """Return whether this alternative was chosen for a fact."""
        return self._chosen.get(name) == alternative

    def shaped(self, value: JsonObject, shapes: Mapping[str, Mapping[str, Shape]]) -> JsonObject:
        """Return a value in the shapes that were chosen."""
        for name, alternatives in shapes.items():
            if name in self._chosen:
                value = alternatives[self._chosen[name]](value)
        return value


def make_space(
    program: Program,
    dialect: Mapping[str, str] | None,
    *,
    api_key: str,
    browser_key: str,
    ids: IdMaker,
    time: Callable[[], float],
) -> Space:
    """Return the service for one Space, in a dialect if one is given; the arguments are those of ``Space``.

    Raises:
        DialectError: The fact or its alternative does not exist.
    """
    if not dialect:
        return Space(program, api_key=api_key, browser_key=browser_key, ids=ids, time=time)
    return DialectSpace(program, Dialect(dialect), api_key=api_key, browser_key=browser_key, ids=ids, time=time)


class DialectLedger(Ledger):
    """A ledger in a dialect.

    Args:
        program: The program.
        dialect: The dialect.
    """

    def __init__(self, program: Program, dialect: Dialect) -> None:
        super().__init__(program)
        self._dialect = dialect
        self._first_results: dict[str, JsonObject] = {}

    def reset(self) -> None:
        """Forget everything but the program, the dialect and the listeners."""
        self._first_results.clear()
        super().reset()

    def identify(self, user_id: str, traits: JsonObject) -> JsonObject:
        """Merge traits into the customer's, or replace these."""
        if self._dialect.has("identify.merge", "replace"):
            self._customer(user_id).traits = {}
        return super().identify(user_id, traits)

    def apply(self, event: EventInput, now: str, received_at: float) -> tuple[JsonObject, list[str]]:
        """Apply an event once, and remember the answer."""
        result, notes = super().apply(event, now, received_at)
        self._first_results.setdefault(self._key(event), result)
        return result, notes

    def _key(self, event: EventInput | RedeemInput) -> str:
        key = super()._key(event)
        return f"{event.user_id}\n{key}" if self._dialect.has("duplicate.scope", "customer") else key

    def _duplicate(self, event: EventInput | RedeemInput) -> JsonObject:
        result = super()._duplicate(event)
        match self._dialect.get("duplicate.answer"):
            case "applied too":
                return {**result, "applied": True}
            case "first result":
                return self._first_results.get(self._key(event), result)
            case _:
                return result


class DialectSpace(Space):
    """The service for one Space, in a dialect.

    Args:
        program: The program.
        dialect: The dialect.
        api_key: The server key that it accepts.
        browser_key: The public key that browser tokens are made for.
        ids: Makes request ids and tokens.
        time: The time in Unix seconds.
    """

    def __init__(
        self,
        program: Program,
        dialect: Dialect,
        *,
        api_key: str,
        browser_key: str,
        ids: IdMaker,
        time: Callable[[], float],
    ) -> None:
        super().__init__(program, api_key=api_key, browser_key=browser_key, ids=ids, time=time)
        self.ledger: Ledger = DialectLedger(program, dialect)
        self._dialect = dialect
        self._batch_ids: set[str] | None = None
        self._count = _COUNTS.get(dialect.get("event.characters") or "", checks.utf16_units)
        if dialect.has("request.skew", "900 s"):
            self._max_skew = OTHER_SKEW_SECONDS
        if dialect.has("request.key_status", "403"):
            self._unauthorized_status = 403
        self._wrong_browser_key_status = int(dialect.get("token.wrong_key") or self._wrong_browser_key_status)

    def error(self, status: int, message: str, *, headers: Headers = ()) -> Response:
        """Build an error response of the chosen shape."""
        if status == 400 and self._dialect.has("event.refused", "422"):
            status = 422
        response = super().error(status, message, headers=headers)
        match self._dialect.get("error.shape"):
            case "empty":
                return evolve(response, body=b"")
            case "text":
                return Response(status, (("content-type", "text/plain"), *headers), message.encode(errors="replace"))
            case "nested" | "problem" as shape:
                return json_response(status, ERROR[shape](status, message[:200]), headers=headers)
            case _:
                return response

    def common_headers(self) -> Headers:
        """Return the headers of every answer, except those that the dialect leaves out."""
        headers = super().common_headers()
        if self._dialect.has("error.request_id", "absent"):
            headers = tuple(pair for pair in headers if pair[0] != "x-perkamo-request-id")
        if self._dialect.has("rate_limit", "absent"):
            headers = tuple(pair for pair in headers if not pair[0].startswith("ratelimit-"))
        return headers

    def show_customer(self, customer: JsonObject) -> JsonObject:
        """Return a customer of the chosen shape."""
        return self._dialect.shaped(customer, CUSTOMER)

    def _identify(self, request: Request, place: Place, /) -> Response:
        self._refuse_unknown(checks.read_object(request), ("user_id", "traits"))
        response = super()._identify(request, place)
        match self._dialect.get("identify.answer"):
            case "customer":
                user_id = str(checks.read_object(request)["user_id"])
                answer: Json = self.show_customer(self.ledger.customer_json(user_id))
            case "list":
                answer = []
            case "null":
                answer = None
            case "empty":
                return Response(204, notes=response.notes)
            case _:
                return response
        return json_response(200, answer, notes=response.notes)

    def _emit(self, request: Request, place: Place, /) -> Response:
        response = super()._emit(request, place)
        return evolve(response, status=202) if self._dialect.has("event.status", "202") else response

    def _batch(self, request: Request, place: Place, /) -> Response:
        self._refuse_unknown(checks.read_object(request), ("events",))
        self._batch_ids = set()
        try:
            if self._dialect.has("batch.failed_item", "refused whole"):
                for index, item in enumerate(checks.read_events(checks.read_object(request))):
                    self._read_event(item, f"events[{index}].")
                self._batch_ids = set()
            response = super()._batch(request, place)
        finally:
            self._batch_ids = None
        return evolve(response, status=207) if self._dialect.has("batch.status", "207") else response

    def _read_event(self, item: Json, path: str) -> EventInput:
        if isinstance(item, dict):
            self._refuse_unknown(item, EVENT_FIELDS, path)
            if self._dialect.has("event.optional", "all required"):
                for name in ("context", "occurred_at"):
                    if name not in item:
                        raise CheckError(f"{path}{name} is missing")
        event = checks.read_event(item, path, self._count)
        if self._dialect.has("event.unruled", "refused") and all(
            rule.event != event.event for rule in self.ledger.program.rules
        ):
            raise CheckError(f"{path}event matches no rule")
        if self._dialect.has("event.stranger", "refused") and not self.ledger.knows(event.user_id):
            raise CheckError(f"{path}user_id is unknown", 404)
        self._refuse_duplicate(event, path)
        return event

    def _refuse_duplicate(self, event: EventInput, path: str) -> None:
        before = self.ledger.applied(event)
        fact = "duplicate.answer" if before == event else "duplicate.other_body"
        if before is not None and self._dialect.has(fact, "conflict"):
            raise CheckError(f"{path}transaction_id was applied before", 409)
        if self._batch_ids is not None and self._dialect.has("batch.repeated", "failed item"):
            if event.transaction_id in self._batch_ids:
                raise CheckError(f"{path}transaction_id occurs earlier in this batch", 409)
            self._batch_ids.add(event.transaction_id)

    def _refuse_unknown(self, body: JsonObject, known: tuple[str, ...], path: str = "") -> None:
        if self._dialect.has("request.unknown_fields", "refused"):
            for note in checks.notes_on(body, known, path):
                raise CheckError(note.replace("and was ignored", "and is refused"))

    def _failed_item(self, error: CheckError) -> Json:
        item = super()._failed_item(error)
        shape = self._dialect.get("batch.failed_item") or ""
        if shape == "unexplained" and isinstance(item, dict):
            return {key: value for key, value in item.items() if key != "error"}
        return FAILED_ITEM[shape](error.status, str(error)) if shape in FAILED_ITEM else item

    def _show_customer_answer(self, user_id: str) -> JsonObject:
        if self._dialect.has("customer.unknown", "404") and not self.ledger.knows(user_id):
            raise CheckError("There is no such customer", 404)
        return self._dialect.shaped(super()._show_customer_answer(user_id), CUSTOMER_ANSWER)

    def _show_program(self) -> Json:
        shown = super()._show_program()
        if self._dialect.has("program.object", "null") or not isinstance(shown, dict):
            return None
        return self._dialect.shaped(shown, PROGRAM)

    def _usage(self, request: Request, place: Place, /) -> Response:
        if self._dialect.has("usage", "missing"):
            raise CheckError("There is no such path", 404)
        response = super()._usage(request, place)
        return json_response(200, [self._metrics()]) if self._dialect.has("usage.answer", "list") else response

    def _read_token_wish(self, body: JsonObject) -> TokenInput:
        if self._dialect.has("token.lifetime", "300 s"):
            return checks.read_token_wish(body, OTHER_TTL_SECONDS, OTHER_TTL_SECONDS)
        return super()._read_token_wish(body)

    def _redeem(self, request: Request, place: Place, /) -> Response:
        if self._dialect.has("redeem", "missing"):
            raise CheckError("There is no such path", 404)
        response = super()._redeem(request, place)
        if self._dialect.has("redeem.answer", "reward only"):
            wish = checks.read_redemption(checks.read_object(request))
            return json_response(200, {"reward": wish.reward}, notes=response.notes)
        return response


_COUNTS: Final[Mapping[str, Callable[[str], int]]] = {
    "bytes": lambda text: len(text.encode()),
    "code points": len,
}
