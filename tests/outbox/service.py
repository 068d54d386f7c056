"""A service that answers as a test likes: any key, any status, an odd item, a closed connection, no answer at all."""

import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, TypeAlias

from attrs import define, field

Sent: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = "int | Mapping[str, object] | list[object] | None"
"""A status, or one of the three below, for the whole request; or an item in place of an accepted one; None accepts."""

CLOSE: Final = -1
"""Close the connection, and apply nothing."""
HANG: Final = -2
"""Answer nothing."""
LOST: Final = -3
"""Apply the events, and close the connection in place of the answer."""
TOO_FEW: Final = -4
"""Answer with fewer results than events, and apply nothing."""

ACCEPTED: Final[Mapping[str, object]] = {
    "applied": True,
    "duplicate": False,
    "delta": [],
    "leveled_up": False,
    "unlocked": [],
    "wallet_state": {},
    "level": None,
}
_NEITHER: Final[Mapping[str, object]] = {**ACCEPTED, "applied": False}
POISONS: Final[Mapping[str, Answer]] = {
    "400": 400,
    "422": 422,
    "409": 409,
    "500": 500,
    "502": 502,
    "503": 503,
    "close": CLOSE,
    "hang": HANG,
    "too-few": TOO_FEW,
    "erritem": {"error": {"code": "invalid_event", "message": "no"}},
    "neither": _NEITHER,
    "rejected": {**_NEITHER, "status": "rejected", "error": "unknown event"},
    "list": [None],
}
"""For each kind of event that the service does not take, how it answers a request with such an event in it."""
WAITING_POISONS: Final = frozenset({"502", "503", "close", "hang"})
"""Those that may be the service's own fault, so that the event waits; all others make a dead letter."""


@define
class Service:
    """What came, and how it is answered.

    Attributes:
        url: Where it is.
        answer: Is given the events of a request and its key.
        item: Is given one event of a request that is answered.
        hang_seconds: For how long a request hangs that gets no answer.
        retry_after: What a 429 asks for.
        applied: How often each transaction id was accepted.
        counted: How often each business id, which stands in the context, was applied: once for each transaction id.
        requests: The transaction ids of the latest requests, in the order in which they came.
    """

    url: str
    answer: Callable[[Sequence[Sent], str], Answer] = lambda _events, _key: None
    item: Callable[[Sent], Answer] = lambda _event: None
    hang_seconds: float = 60.0
    retry_after: str = "30"
    applied: Counter[str] = field(factory=Counter)
    counted: Counter[str] = field(factory=Counter)
    requests: deque[list[str]] = field(factory=lambda: deque(maxlen=10_000))
    ended: threading.Event = field(factory=threading.Event)
    _lock: threading.Lock = field(factory=threading.Lock)

    def take(self, events: Sequence[Sent], key: str) -> tuple[int, bytes]:
        """Answer one request."""
        self.requests.append([event["transaction_id"] for event in events])
        answer = self.answer(events, key)
        if answer == TOO_FEW:
            return 200, b'{"results":[]}'
        if answer == HANG:
            self.ended.wait(self.hang_seconds)
        if isinstance(answer, int) and answer != LOST:
            return answer, b'{"message":"no"}'
        items = [self.item(event) for event in events]
        with self._lock:
            for event, item in zip(events, items, strict=True):
                if item is None:
                    self.counted[event["context"].get("business", "")] += not self.applied[event["transaction_id"]]
                    self.applied[event["transaction_id"]] += 1
        results = [ACCEPTED if item is None else item for item in items]
        return (LOST if answer == LOST else 200), json.dumps({"results": results}).encode()

    def poison(self, kinds: Mapping[str, Answer]) -> None:
        """Answer oddly where an event of a kind is in a request, whose transaction id ends in "poison-" and the kind.

        Args:
            kinds: Kinds of ``POISONS``, and what they get.
        """

        def kind_of(event: Sent) -> str:
            return str(event["transaction_id"]).rpartition("poison-")[2]

        def answer(events: Sequence[Sent], key: str) -> Answer:
            statuses = [kinds[kind] for kind in map(kind_of, events) if isinstance(kinds.get(kind), int)]
            return statuses[0] if statuses else healthy(events, key)

        def item(event: Sent) -> Answer:
            odd = kinds.get(kind_of(event))
            return None if isinstance(odd, int) else odd

        healthy = self.answer
        self.answer, self.item = answer, item


@contextmanager
def running_service() -> Iterator[Service]:
    """Run a service on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer's second packet waits some 40 ms for an acknowledgement

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, answer = service.take(json.loads(body)["events"], self.headers["x-perkamo-api-key"])
            if status < 0:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            if status == 429:
                self.send_header("retry-after", service.retry_after)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Say nothing of clients that were killed."""

    server = Server(("127.0.0.1", 0), Handler)
    service = Service(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
