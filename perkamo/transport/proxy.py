"""A proxy: its address, its credentials, and the requests that it gets. No repr or error shows the credentials."""

import ssl
from base64 import b64encode
from importlib.util import find_spec
from typing import Final, cast

import httpx

from perkamo.transport.request import RawHeaders, raw_headers_of

_MAX_PORT: Final = 65_535
_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


class Proxy:
    """An HTTP proxy, reached in plain text or over TLS, or a SOCKS5 proxy.

    Making one never fails, because the arguments, which may hold a password, are in the frame.

    Args:
        given: Its URL, whose user name and password are percent-decoded, or httpx's object for it.
        name: Its name in errors.

    Attributes:
        problem: Why it can't be used, or None.
        host: Its host, in ASCII.
        port: Its port.
        is_socks: Whether it speaks SOCKS5; otherwise HTTP.
        uses_tls: Whether it is reached over TLS.
        ssl_context: The TLS context for it, or None for the same as for the service.
    """

    def __init__(self, given: str | httpx.URL | httpx.Proxy, name: str = "the proxy") -> None:
        proxy = _parse(given)
        url = httpx.URL() if proxy is None else proxy.url
        self.host: str = url.raw_host.decode("ascii")
        self.port: int = url.port or _PORTS.get(url.scheme, 0)
        self.is_socks: bool = url.scheme.startswith("socks")
        self.uses_tls: bool = url.scheme == "https"
        self.ssl_context: ssl.SSLContext | None = None if proxy is None else proxy.ssl_context
        self.problem: str | None = None
        if not self.host or not 0 < self.port <= _MAX_PORT:
            self.problem = f"{name} is not the URL of an HTTP or SOCKS5 proxy, such as http://proxy.internal:3128"
        elif self.is_socks and find_spec("socksio") is None:
            self.problem = f"{name} speaks SOCKS5, which needs the package socksio: pip install 'perkamo[socks]'"
        self._login = None if proxy is None else proxy.raw_auth
        self._headers = [] if proxy is None else proxy.headers.raw
        if self._login is not None:
            self._headers.append((b"Proxy-Authorization", b"Basic " + b64encode(b":".join(self._login))))

    def __repr__(self) -> str:
        return f"<Proxy {self.host}:{self.port}>"

    @property
    def has_login(self) -> bool:
        """Whether there is a user name or password."""
        return self._login is not None

    def forwards(self, scheme: str) -> bool:
        """Return whether such requests are sent to the proxy itself, in absolute form, and not through a tunnel."""
        return scheme == "http" and not self.is_socks

    def forwarded(self, request: httpx.Request, target: bytes) -> tuple[bytes, RawHeaders]:
        """Return the target in absolute form and the headers of a request that it forwards."""
        headers = raw_headers_of(request)
        own = {name.lower() for name, _ in headers}
        added = [(name, value) for name, value in self._headers if name.lower() not in own]
        return b"http://%b%b" % (request.url.netloc, target), [*headers, *added]

    def connect_request(self, host: str, port: int) -> httpx.Request:
        """Return the request that asks an HTTP proxy for a tunnel."""
        authority = b"%b:%d" % ((f"[{host}]" if ":" in host else host).encode("ascii"), port)
        headers = [(b"Host", authority), (b"Accept", b"*/*"), *self._headers]
        return httpx.Request("CONNECT", "http://proxy", headers=headers, extensions={"target": authority})

    def socks_login(self) -> bytes:
        """Return the message that gives a SOCKS5 proxy the credentials.

        Raises:
            OverflowError: One is longer than 255 bytes.
        """
        from socksio.socks5 import SOCKS5UsernamePasswordRequest  # noqa: PLC0415 - an extra

        name, password = self._login or (b"", b"")
        return SOCKS5UsernamePasswordRequest(name, password).dumps()


def hide_proxy(proxy: str | None) -> str | None:
    """Wrap the URL of a proxy, which may hold a password, so that no traceback shows it.

    A function that takes one calls this first, because its arguments are in its frame. Only ``Transport`` takes the
    result.
    """
    return proxy if proxy is None or isinstance(proxy, Proxy) else cast("str", Proxy(proxy))


def _parse(given: str | httpx.URL | httpx.Proxy) -> httpx.Proxy | None:
    try:
        proxy = given if isinstance(given, httpx.Proxy) else httpx.Proxy(given)
    except (ValueError, TypeError, httpx.InvalidURL):
        return None
    return proxy
