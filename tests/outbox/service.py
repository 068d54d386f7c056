"""A service that answers as a test likes: any key, any status, an odd item, a closed connection, no answer at all."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from attrs import define, field

Sent = Mapping[str, Any]
ACCEPTED: Final = {
    "applied": True,
    "duplicate": False,
    "delta": [],
    "leveled_up": False,
    "unlocked": [],
    "wallet_state": {},
    "level": None,
}
CLOSE: Final = -1
HANG: Final = -2


@define
class Service:
    """What came, and how it is answered.

    Attributes:
        answer: Is given the events of a request and its key; returns None to accept them, a status to refuse them, an
            item to answer for each event in place of an accepted one, or ``CLOSE`` or ``HANG``.
        applied: How often each transaction id was applied.
        requests: The transaction ids of each request, in the order in which they came.
    """

    url: str
    answer: Callable[[Sequence[Sent], str], object] = lambda events, key: None
    applied: Counter[str] = field(factory=Counter)
    requests: list[list[str]] = field(factory=list)
    ended: threading.Event = field(factory=threading.Event)
    _lock: threading.Lock = field(factory=threading.Lock)

    def take(self, events: Sequence[Sent], key: str) -> tuple[int, bytes]:
        """Answer one request."""
        self.requests.append([event["transaction_id"] for event in events])
        answer = self.answer(events, key)
        if answer == "too few":
            return 200, b'{"results":[]}'
        if isinstance(answer, int):
            if answer == HANG:
                self.ended.wait(60)
            return answer, b'{"message":"no"}'
        results = []
        for event in events:
            item = answer(event) if callable(answer) else None
            results.append(ACCEPTED if item is None else item)
            if item is None:
                with self._lock:
                    self.applied[event["transaction_id"]] += 1
        return 200, json.dumps({"results": results}).encode()


@contextmanager
def running_service() -> Iterator[Service]:
    """Run a service on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

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
                self.send_header("retry-after", "30")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
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
