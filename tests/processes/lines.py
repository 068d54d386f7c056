"""A service that echoes lines, and programs' questions to it: what the portal's tests have in the place of an API."""

import threading
from typing import Final

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import define, field

from tests.faults.rawserver import Connection

PATIENCE: Final = 60.0


async def ask(port: int, line: str, sent: threading.Event | None = None) -> str:
    """Send a line and return the answer; connect by the machine's name, which has to be looked up."""
    async with await anyio.connect_tcp("localhost", port) as stream:
        await stream.send(f"{line}\n".encode())
        if sent is not None:
            sent.set()
        return (await BufferedByteReceiveStream(stream).receive_until(b"\n", 1000)).decode()


@define
class Echo:
    """A script of ``RawServer`` that answers each line with the same line, but ``hold`` with nothing.

    Attributes:
        held: How many connections have sent ``hold``.
        let_go: How many of these the client has closed.
    """

    held: int = 0
    let_go: int = 0
    _news: threading.Condition = field(factory=threading.Condition, init=False)

    def wait_until(self, *, held: int, let_go: int) -> None:
        """Wait until so many connections are or were held, and so many of them closed."""
        with self._news:
            come = self._news.wait_for(lambda: self.held >= held and self.let_go >= let_go, PATIENCE)
        assert come, (self.held, self.let_go)

    def __call__(self, connection: Connection) -> None:
        """Serve a connection."""
        rest = b""
        holding = 0
        try:
            while data := connection.read_some(65536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if line == b"hold":
                        holding = 1
                        self._note(held=1)
                    else:
                        connection.send(line + b"\n")
        finally:
            self._note(let_go=holding)

    def _note(self, held: int = 0, let_go: int = 0) -> None:
        with self._news:
            self.held += held
            self.let_go += let_go
            self._news.notify_all()
