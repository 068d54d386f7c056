"""One Space of the service: ``handle(request) -> response``. No socket, no thread, and time is an argument."""

import re
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from perkamo.encoding.ids import MAX_USER_ID_LENGTH
from perkamo.sandbox import checks
from perkamo.sandbox.checks import CheckError, EventInput, TokenInput
from perkamo.sandbox.clock import stamp
from perkamo.sandbox.feed import Feed
from perkamo.sandbox.ledger import Ledger, failed_result
from perkamo.sandbox.messages import Headers, Json, JsonObject, Request, Response, json_response, with_headers
from perkamo.sandbox.program import Program
from perkamo.sandbox.routes import ROUTES, Place, find
from perkamo.sandbox.signatures import MAX_SKEW_SECONDS, AuthorizationError, check_key, check_signature
from perkamo.sandbox.tokens import IdMaker, Token, TokenBook
from perkamo.signing import SIGNATURE_HEADER

RATE_LIMIT: Final = 100_000
RATE_WINDOW_SECONDS: Final = 60
"""Assumed. The sandbox only counts and reports; a 429 comes from ``faults`` alone."""

EVENT_FIELDS: Final = ("user_id", "event", "transaction_id", "context", "occurred_at")
MAX_MESSAGE_LENGTH: Final = 1000
_UNRESERVED: Final = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+", re.ASCII)


class Space:
    """The service for one Space.

    Args:
        program: The program.
        api_key: The server key that it accepts.
        browser_key: The public key that browser tokens are made for.
        ids: Makes request ids and tokens.
        time: The time in Unix seconds.
    """

    def __init__(
        self, program: Program, *, api_key: str, browser_key: str, ids: IdMaker, time: Callable[[], float]
    ) -> None:
        self.ledger: Ledger = Ledger(program)
        self.feed: Feed = Feed()
        self.tokens: TokenBook = TokenBook()
        self._api_key = api_key
        self._browser_key = browser_key
        self._ids = ids
        self._time = time
        self._window = (0, 0)
        self._max_skew: float = MAX_SKEW_SECONDS
        self._unauthorized_status = 401
        self._wrong_browser_key_status = 403
        self._calls: dict[str, Callable[[Request, Place], Response]] = {
            "identify": self._identify,
            "emit": self._emit,
            "batch": self._batch,
            "customer": self._customer,
            "program": self._program,
            "browser-tokens": self._browser_token,
            "usage": self._usage,
            "redeem": self._redeem,
        }

    def reset(self) -> None:
        """Forget everything that came with requests."""
        self.feed.reset()
        self.ledger.reset()
        self.tokens.reset()
        self._ids.reset()
        self._window = (0, 0)

    def handle(self, request: Request) -> Response:
        """Answer one request, completely: routing, key, signature, body, state, headers."""
        try:
            response = self._answer(request)
        except CheckError as error:
            response = self.error(error.status, str(error))
        except AuthorizationError as error:
            response = self.error(self._unauthorized_status, str(error))
        return with_headers(response, self.common_headers())

    def error(self, status: int, message: str, *, headers: Headers = ()) -> Response:
        """Build an error response: ``{"message": ...}``."""
        shown = message if len(message) <= MAX_MESSAGE_LENGTH else f"{message[:MAX_MESSAGE_LENGTH]}..."
        body: JsonObject = {"message": shown.encode(errors="replace").decode()}
        return json_response(status, body, headers=headers)

    def common_headers(self) -> Headers:
        """Return the headers of every answer, and count it against the rate limit."""
        now = self._time()
        window, used = self._window
        current = int(now // RATE_WINDOW_SECONDS)
        used = used + 1 if window == current else 1
        self._window = (current, used)
        return (
            ("date", formatdate(now, usegmt=True)),
            ("x-perkamo-request-id", self._ids.make("req_")),
            ("ratelimit-limit", str(RATE_LIMIT)),
            ("ratelimit-remaining", str(max(RATE_LIMIT - used, 0))),
            ("ratelimit-reset", str(int((current + 1) * RATE_WINDOW_SECONDS - now) or 1)),
        )

    def _answer(self, request: Request) -> Response:
        place = find(request.path)
        call = ROUTES.get(f"{request.method} {place.template}")
        if place.template is None:
            raise CheckError("This path does not exist in the Perkamo API that this sandbox knows", 404)
        if call is None:
            allow = ", ".join(place.methods)
            return self.error(405, f"This path takes {allow} only", headers=(("allow", allow),))
        answer = self._calls.get(call)
        if answer is None:
            raise CheckError("This path is not served here", 404)
        check_key(request, self._api_key, self._browser_key)
        if request.method == "POST":
            check_signature(request, place.path, self._api_key, self._time(), self._max_skew)
        response = answer(request, place)
        oddities = _oddities(request, place)
        return Response(response.status, response.headers, response.body, (*oddities, *response.notes))

    def _identify(self, request: Request, _: Place, /) -> Response:
        body = checks.read_object(request)
        user_id = checks.read_id(body, "user_id", MAX_USER_ID_LENGTH)
        traits = checks.read_facts(body, "traits")
        notes = checks.notes_on(body, ("user_id", "traits"))
        self.feed.identified(user_id, traits, self._time())
        return json_response(200, self.ledger.identify(user_id, traits), notes=notes)

    def _emit(self, request: Request, _: Place, /) -> Response:
        body = checks.read_object(request)
        result, notes = self._apply(body, "")
        return json_response(200, result, notes=notes)

    def _batch(self, request: Request, _: Place, /) -> Response:
        body = checks.read_object(request)
        results: list[Json] = []
        notes = checks.notes_on(body, ("events",))
        for index, item in enumerate(checks.read_events(body)):
            try:
                result, more = self._apply(item, f"events[{index}].")
                results.append(result)
            except CheckError as error:
                results.append(self._failed_item(error))
                more = (str(error),)
            notes = (*notes, *more)
        return json_response(200, {"results": results}, notes=notes)

    def _apply(self, item: Json, path: str) -> tuple[JsonObject, tuple[str, ...]]:
        event = self._read_event(item, path)
        now = self._time()
        result, notes = self.ledger.apply(event, stamp(now), now)
        self.feed.applied(event, result, notes, self.ledger.program, now)
        known = checks.notes_on(item, EVENT_FIELDS, path) if isinstance(item, dict) else ()
        return result, (*known, *(f"{path.removesuffix('.')}: {note}" if path else note for note in notes))

    def _read_event(self, item: Json, path: str) -> EventInput:
        return checks.read_event(item, path)

    def _failed_item(self, error: CheckError) -> Json:
        """Return the result of a failed item of a batch: nothing applied, and the error. Its shape is assumed."""
        return failed_result(str(error))

    def show_customer(self, customer: JsonObject) -> JsonObject:
        """Return a customer as answers and streams carry it."""
        return customer

    def _customer(self, _: Request, place: Place, /) -> Response:
        if place.user_id is None:
            raise CheckError("the user id in the path is not percent-encoded UTF-8")
        user_id = checks.read_id({"user_id": place.user_id}, "user_id", MAX_USER_ID_LENGTH)
        return json_response(200, self._show_customer_answer(user_id))

    def _show_customer_answer(self, user_id: str) -> JsonObject:
        return self.show_customer(self.ledger.customer_json(user_id))

    def _program(self, _: Request, __: Place, /) -> Response:
        return json_response(200, self._show_program())

    def _show_program(self) -> Json:
        measured = self._metrics()
        return {"blueprint": self.ledger.program.blueprint(), "metrics": measured, "usage": measured}

    def _usage(self, _: Request, __: Place, /) -> Response:
        return json_response(200, self._metrics())

    def _metrics(self) -> JsonObject:
        return {"events": self.ledger.events_applied, "customers": self.ledger.customer_count}

    def _browser_token(self, request: Request, _: Place, /) -> Response:
        body = checks.read_object(request)
        wish = self._read_token_wish(body)
        if wish.browser_key != self._browser_key:
            raise CheckError("browser_key is not this Space's public browser key", self._wrong_browser_key_status)
        expires_at = self._time() + wish.ttl_seconds
        token = Token(self._ids.make("sandbox_token_"), wish.user_id, wish.purpose, expires_at)
        self.tokens.add(token)
        answer: JsonObject = {
            "token": token.text,
            "token_type": "Bearer",
            "expires_at": stamp(expires_at),
            "expires_in": wish.ttl_seconds,
        }
        notes = checks.notes_on(body, ("browser_key", "user_id", "purpose", "ttl_seconds"))
        return json_response(200, answer, notes=notes)

    def _read_token_wish(self, body: JsonObject) -> TokenInput:
        return checks.read_token_wish(body)

    def _redeem(self, request: Request, _: Place, /) -> Response:
        wish = checks.read_redemption(checks.read_object(request))
        reward = next((item for item in self.ledger.program.rewards if item.key == wish.reward), None)
        if reward is None:
            raise CheckError("reward is not one of the program's rewards", 404)
        answer, notes = self.ledger.redeem(wish, reward)
        if answer is None:
            raise CheckError("the balance is too small for this reward", 409)
        self.feed.redeemed(wish, answer, self._time())
        return json_response(200, answer, notes=tuple(notes))


def _oddities(request: Request, place: Place) -> tuple[str, ...]:
    """Return notes on how the request differs from those of the published clients; the service probably accepts it."""
    odd: list[str] = []
    if "application/json" not in (request.header("accept") or ""):
        odd.append("the published clients send accept: application/json")
    if request.method == "GET" and request.header(SIGNATURE_HEADER) is not None:
        odd.append("GET requests are not signed")
    if "?" in request.target:
        odd.append("no call takes a query")
    if place.user_id is not None and _UNRESERVED.fullmatch(place.path.rpartition("/")[2]) is None:
        odd.append("the id in the path is not percent-encoded completely")
    return tuple(odd)
