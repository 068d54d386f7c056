"""A server that does with its bytes what no HTTP library would: for the rows of the fault matrix.

Each connection runs a script, a plain function in a thread of its own, which reads requests and sends, drips, stalls,
resets or lies as it likes. What came in is kept.
"""

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from attrs import define, field, frozen


@frozen
class Request:
    """A request as it came in.

    Attributes:
        connection: Which connection it came on, from 0.
        line: The request line.
        headers: The headers, names in lower case.
        body: The body.
    """

    connection: int
    line: str
    headers: dict[str, str]
    body: bytes


@define(eq=False)
class Connection:
    """One accepted connection, in the hands of a script."""

    number: int
    socket: socket.socket
    server: "RawServer"
    _buffer: bytes = b""

    def read_request(self) -> Request | None:
        """Read one whole request; None when the client closed."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        length = int(headers.get("content-length", "0"))
        self._buffer = rest
        while len(self._buffer) < length:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        request = Request(self.number, line, headers, body)
        self.server.requests.append(request)
        return request

    def read_some(self, size: int) -> bytes:
        """Read up to so many bytes, once."""
        return self.socket.recv(size)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def drip(self, data: bytes, pause: float) -> None:
        """Send one byte at a time, with pauses of so many seconds, until the client has had enough."""
        for n in range(len(data)):
            if self.server.stopping.wait(pause):
                return
            self.send(data[n : n + 1])

    def stall(self) -> None:
        """Keep the connection open and silent until the client closes it or the test ends."""
        self.socket.settimeout(0.05)
        while not self.server.stopping.is_set():
            try:
                if not self.socket.recv(65536):
                    return
            except TimeoutError:
                continue

    def reset(self) -> None:
        """Close with a reset (RST) in place of an orderly end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _more(self) -> bool:
        data = self.socket.recv(65536)
        self._buffer += data
        return bool(data)


Script = Callable[[Connection], None]


class RawServer:
    """Runs one script per connection: the first for the first, and the last for all that follow.

    Args:
        scripts: What to do with each connection.

    Attributes:
        base_url: Where it listens.
        requests: The requests that scripts have read, in order.
        accepted: How many connections were accepted.
    """

    def __init__(self, *scripts: Script) -> None:
        self.requests: list[Request] = []
        self.accepted = 0
        self.stopping = threading.Event()
        self._scripts: Sequence[Script] = scripts
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stopping.set()
        for one in (self._listener, *self._open):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(10)
        for one in (self._listener, *self._open):
            one.close()

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(accepted)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            script = self._scripts[min(self.accepted, len(self._scripts) - 1)]
            connection = Connection(self.accepted, accepted, self)
            self.accepted += 1
            self._start(lambda script=script, connection=connection: self._run(script, connection))  # type: ignore[misc]  # mypy can't infer a lambda's defaults

    def _run(self, script: Script, connection: Connection) -> None:
        try:
            script(connection)
        except OSError:
            return  # the client went away, which scripts need not care about
        finally:
            connection.socket.close()


RESULT: Final = (
    b'{"applied":true,"duplicate":false,"delta":[],"leveled_up":false,"unlocked":[],"wallet_state":{"points":1}}'
)


def answer(
    body: bytes = RESULT, status: str = "200 OK", headers: Sequence[str] = (), length: int | None = None
) -> bytes:
    """Write an answer with an honest length, or with the given one."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def answering(*answers: bytes) -> Script:
    """Make a script that answers each request of a connection in turn, and all further ones with the last."""

    def script(connection: Connection) -> None:
        number = 0
        while connection.read_request() is not None:
            connection.send(answers[min(number, len(answers) - 1)])
            number += 1

    return script


@define
class Once:
    """A script that runs another one on the first request and answers well from then on."""

    first: Script
    used: bool = field(default=False, init=False)

    def __call__(self, connection: Connection) -> None:
        """Run the first script once, over all connections."""
        if self.used:
            answering(answer())(connection)
            return
        self.used = True
        self.first(connection)
