"""A real proxy on this machine: CONNECT, plain HTTP in absolute form, and SOCKS5, each with or without a login."""

import socket
import ssl
import struct
import threading
from base64 import b64encode
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import urlsplit

Kind = Literal["http", "socks"]

_CHUNK: Final = 65_536


class ProxyServer:
    """Relays between its clients and services, each connection in threads of its own.

    Args:
        kind: What it speaks.
        login: The user name and password that it wants, or None.
        tls: What it speaks TLS with, or None for plain text.
        hosts: Names that it knows, and the addresses that they stand for; others are looked up.
        pause: Seconds between two bytes of its own answers, or 0.

    Attributes:
        url: Where it is, without credentials.
        asked: What it was asked for, in order: ``host:port``, of plain requests the first line.
    """

    def __init__(
        self,
        kind: Kind = "http",
        *,
        login: tuple[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        hosts: dict[str, str] | None = None,
        pause: float = 0.0,
    ) -> None:
        self.asked: list[str] = []
        self._kind = kind
        self._login = login
        self._tls = tls
        self._hosts = hosts or {}
        self._pause = pause
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        scheme = "socks5" if kind == "socks" else "https" if tls else "http"
        host = "localhost" if tls else "127.0.0.1"
        self.url = f"{scheme}://{host}:{self._listener.getsockname()[1]}"

    @property
    def open_sockets(self) -> int:
        """How many connections are open, on both sides."""
        with self._lock:
            return len(self._open)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]  # any function
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, accepted)

    def _keep(self, one: socket.socket) -> socket.socket:
        with self._lock:
            self._open.add(one)
        return one

    def _close(self, one: socket.socket) -> None:
        with self._lock:
            self._open.discard(one)
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            self._keep(client)
            if self._kind == "socks":
                self._socks(client)
            else:
                self._http(client)
        except OSError:
            return
        finally:
            self._close(client)

    def _say(self, client: socket.socket, data: bytes) -> None:
        if not self._pause:
            return client.sendall(data)
        for n in range(len(data)):
            self._stopping.wait(self._pause)
            client.sendall(data[n : n + 1])
        return None

    def _reach(self, host: str, port: int) -> socket.socket:
        service = socket.create_connection((self._hosts.get(host, host), port), 10)
        service.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        service.settimeout(None)
        return self._keep(service)

    def _http(self, client: socket.socket) -> None:
        line, lines, headers = _read_head(client)
        if self._login is not None:
            wanted = "Basic " + b64encode(":".join(self._login).encode()).decode()
            if headers.get("proxy-authorization") != wanted:
                return self._say(client, b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        method, target, _ = line.split(" ")
        if method != "CONNECT":
            return self._forward(client, line, lines, headers)
        self.asked.append(target)
        host, _, port = target.rpartition(":")
        service = self._reach(host.strip("[]"), int(port))
        return self._relay(client, service, b"HTTP/1.1 200 Connection established\r\n\r\n")

    def _forward(self, client: socket.socket, line: str, lines: list[str], headers: dict[str, str]) -> None:
        """Send a connection's requests on in origin form. One connection serves one service, as our client has it."""
        url = urlsplit(line.split(" ")[1])
        service = self._reach(url.hostname or "", url.port or 80)
        self._start(self._pump, service, client)
        try:
            while True:
                self.asked.append(line)
                method, target, version = line.split(" ")
                kept = [one for one in lines if not one.lower().startswith("proxy-")]
                head = [f"{method} {target.partition(url.netloc)[2]} {version}", *kept]
                service.sendall("\r\n".join(head).encode("latin-1") + b"\r\n\r\n")
                left = int(headers.get("content-length", "0"))
                while left:
                    data = client.recv(min(left, _CHUNK))
                    if not data:
                        return
                    service.sendall(data)
                    left -= len(data)
                line, lines, headers = _read_head(client)
        finally:
            self._close(service)

    def _socks(self, client: socket.socket) -> None:
        version, count = _read(client, 2)
        methods = _read(client, count)
        wanted = 2 if self._login else 0
        if version != 5 or wanted not in methods:
            return self._say(client, b"\x05\xff")
        self._say(client, bytes((5, wanted)))
        if self._login is not None:
            name = _read(client, _read(client, 2)[1])
            password = _read(client, _read(client, 1)[0])
            good = (name.decode(), password.decode()) == self._login
            self._say(client, b"\x01" + (b"\x00" if good else b"\x01"))
            if not good:
                return None
        _, command, _, kind = _read(client, 4)
        if kind == 1:
            host = socket.inet_ntop(socket.AF_INET, _read(client, 4))
        elif kind == 4:
            host = socket.inet_ntop(socket.AF_INET6, _read(client, 16))
        else:
            host = _read(client, _read(client, 1)[0]).decode()
        (port,) = struct.unpack("!H", _read(client, 2))
        self.asked.append(f"{host}:{port}")
        assert command == 1
        try:
            service = self._reach(host, port)
        except OSError:
            return self._say(client, b"\x05\x05\x00\x01" + bytes(6))
        return self._relay(client, service, b"\x05\x00\x00\x03\x09localhost\x00\x00")

    def _relay(self, client: socket.socket, service: socket.socket, consent: bytes) -> None:
        try:
            self._say(client, consent)
            self._start(self._pump, service, client)
            self._pump(client, service)
        finally:
            self._close(service)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(_CHUNK):
                target.sendall(data)
        except OSError:
            pass
        finally:
            self._close(source)
            self._close(target)


def _read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = source.recv(size - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def _read_head(source: socket.socket) -> tuple[str, list[str], dict[str, str]]:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += _read(source, 1)
    line, *lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    return line, lines, {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
