"""A plain HTTP client of the standard library, signing as the contract says, for a running sandbox."""

import http.client
import json
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from perkamo.sandbox import Sandbox
from perkamo.signing import sign
from tests.sandbox.caller import Answer


class Sender:
    """One keep-alive connection to a sandbox."""

    def __init__(self, sandbox: Sandbox, *, timeout: float = 20) -> None:
        self.sandbox = sandbox
        self.address = address_of(sandbox)
        self.connection = http.client.HTTPConnection(*self.address, timeout=timeout)

    def get(self, path: str) -> Answer:
        """Send a GET with the key."""
        return self.send("GET", path, b"", {"x-perkamo-api-key": self.sandbox.api_key, "accept": "application/json"})

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a signed POST."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, raw, {**self.signed(path, raw), **(headers or {})})

    def signed(self, path: str, raw: bytes) -> dict[str, str]:
        """The headers of a POST, by the sandbox's clock."""
        return signed_headers(self.sandbox.api_key, self.sandbox.clock.time(), path, raw)

    def send(self, method: str, path: str, raw: bytes, headers: Mapping[str, str]) -> Answer:
        """Send any request."""
        self.connection.request(method, path, raw or None, dict(headers))
        response = self.connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read(), ())

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def signed_headers(api_key: str, now: float, path: str, raw: bytes) -> dict[str, str]:
    """The headers of a signed POST."""
    timestamp = str(int(now))
    return {
        "x-perkamo-api-key": api_key,
        "accept": "application/json",
        "content-type": "application/json",
        "x-perkamo-timestamp": timestamp,
        "x-perkamo-signature": sign(api_key, timestamp, "POST", path, raw),
    }


def address_of(sandbox: Sandbox) -> tuple[str, int]:
    """Host and port of a running sandbox."""
    parts = urlsplit(sandbox.base_url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def exchange(sandbox: Sandbox, data: bytes) -> bytes:
    """Send bytes on a connection of their own, and return all that comes until the sandbox closes it."""
    with socket.create_connection(address_of(sandbox), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    received = bytearray()
    while chunk := connection.recv(65_536):
        received += chunk
    return bytes(received)
