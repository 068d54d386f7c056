"""Requests as a client sends them, for the tests of the sandbox."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

from attrs import define, frozen

from perkamo.sandbox import Clock
from perkamo.sandbox.blueprint import read_program
from perkamo.sandbox.messages import Headers, Request, Response
from perkamo.sandbox.process import ProcessLock
from perkamo.sandbox.shop import SHOP_PROGRAM
from perkamo.sandbox.space import Space
from perkamo.sandbox.tokens import IdMaker
from perkamo.signing import sign

NOW = datetime(2026, 6, 1, 10, 0, tzinfo=UTC)
API_KEY = "sk_test_of_the_tests"
BROWSER_KEY = "pk_test_of_the_tests"


@frozen
class Answer:
    """A response, with its JSON at hand."""

    status: int
    headers: Mapping[str, str]
    raw: bytes
    notes: tuple[str, ...]

    @property
    def json(self) -> dict[str, object]:
        """The body as a JSON object."""
        value = json.loads(self.raw)
        assert isinstance(value, dict)
        return cast("dict[str, object]", value)

    def objects(self, name: str) -> list[dict[str, object]]:
        """The list of objects under this name in the body."""
        return objects(self.json[name])

    @property
    def message(self) -> str:
        """The message of an error body."""
        message = self.json["message"]
        assert isinstance(message, str)
        return message


@define
class Caller:
    """Calls a Space without a socket, signing as the contract says."""

    space: Space
    clock: Clock

    def get(self, path: str) -> Answer:
        """Send a GET."""
        return self.send(Request("GET", path, self.headers()))

    def post(self, path: str, body: object) -> Answer:
        """Send a signed POST; bytes go as they are, everything else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(Request("POST", path, self.signed(path, raw), raw))

    def send(self, request: Request) -> Answer:
        """Send any request."""
        return answer_of(self.space.handle(request))

    def headers(self) -> Headers:
        """The headers of a GET."""
        return (("x-perkamo-api-key", API_KEY), ("accept", "application/json"))

    def signed(self, path: str, body: bytes, *, method: str = "POST", timestamp: str | None = None) -> Headers:
        """The headers of a POST."""
        moment = timestamp or str(int(self.clock.time()))
        return (
            *self.headers(),
            ("content-type", "application/json"),
            ("x-perkamo-timestamp", moment),
            ("x-perkamo-signature", sign(API_KEY, moment, method, path, body)),
        )


def objects(value: object) -> list[dict[str, object]]:
    """The same value, known to be a list of objects."""
    assert isinstance(value, list)
    assert all(isinstance(item, dict) for item in value)
    return cast("list[dict[str, object]]", value)


def answer_of(response: Response) -> Answer:
    """Read a response."""
    return Answer(response.status, dict(response.headers), response.body, response.notes)


def make_caller(program: Mapping[str, object] | None = None, *, seed: int = 0) -> Caller:
    """Build a Space whose clock stands still."""
    clock = Clock(ProcessLock(), NOW)
    space = Space(
        read_program(program or SHOP_PROGRAM),
        api_key=API_KEY,
        browser_key=BROWSER_KEY,
        ids=IdMaker(seed),
        time=clock.time,
    )
    return Caller(space, clock)


def event(**changes: object) -> dict[str, object]:
    """Make a valid event, with changes; a change to `...` leaves the field out."""
    fields: dict[str, object] = {
        "user_id": "customer_123",
        "event": "user.registered",
        "transaction_id": "registration_1",
        "context": {},
        "occurred_at": "2026-06-01T10:00:00.000Z",
    }
    return {name: value for name, value in {**fields, **changes}.items() if value is not ...}
