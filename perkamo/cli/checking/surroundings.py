"""The way between this machine and the service: key, clock, names, TLS, proxies, and how long an answer takes."""

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from attrs import field, frozen

from perkamo.cli.checking.caller import Answer, clock_offset
from perkamo.encoding.encode import JSONValue
from perkamo.request.credentials import SERVER_KEY_PREFIX
from perkamo.transport.tls import TLSSetupError, shared_context

_CA_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_LIKELY_SKEW: Final = 30.0
"""Seconds; assumed: the skew that the service allows is unpublished."""


@frozen
class Surrounding:
    """One thing about the way to the service.

    Attributes:
        name: Its name.
        text: The finding, without keys, hosts and other values of yours.
        ok: Whether it is right; None if that is unknown.
    """

    name: str
    text: str
    ok: bool | None = field(kw_only=True)

    def json(self) -> dict[str, JSONValue]:
        """Return it as ``--json`` shows it."""
        return {"name": self.name, "ok": self.ok, "text": self.text}


def look_around(key: str, base_url: str) -> Iterator[Surrounding]:
    """Yield what can be found without sending a request."""
    yield _key(key)
    parts = urlsplit(base_url)
    yield _name(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    yield _tls(parts.scheme)
    used = [name for name in _PROXY_VARIABLES if os.environ.get(name) or os.environ.get(name.lower())]
    proxied = f"set: {', '.join(used)}" if used else "none is set"
    direct = "" if parts.scheme in getproxies() or "all" in getproxies() else "; the service is reached directly"
    yield Surrounding("proxy variables", proxied + direct, ok=None if used else True)


def of_answers(answers: list[Answer], problem: str | None) -> Iterator[Surrounding]:
    """Yield what the first answers show; without any, why there is none."""
    if not answers:
        yield Surrounding("connection", f"no answer: {problem}", ok=False)
        return
    refused = next((answer.status for answer in answers if not answer.ok), None)
    if refused is not None:
        advice = "; check the server key and this machine's clock" if refused == 401 else ""
        yield Surrounding("connection", f"the program is answered with {refused}{advice}", ok=False)
    seconds = median(answer.seconds for answer in answers)
    missing = "" if problem is None else f"; some questions had no answer: {problem}"
    if refused is None:
        yield Surrounding("connection", f"an answer takes {seconds * 1000:.0f} ms{missing}", ok=problem is None or None)
    offset = clock_offset(answers[-1])
    if offset is None:
        yield Surrounding("clock", "the service's answers have no date", ok=None)
    else:
        ahead = "behind" if offset > 0 else "ahead of"
        same = abs(offset) <= 2
        text = "as the service's" if same else f"{abs(offset):.0f} s {ahead} the service's"
        yield Surrounding("clock", text, ok=abs(offset) <= _LIKELY_SKEW)


def _key(key: str) -> Surrounding:
    shape = (
        "begins with sk_" if key.startswith(SERVER_KEY_PREFIX) else "does not begin with sk_, as published examples do"
    )
    kind = next((f", for {kind} use" for kind in ("live", "test") if key.startswith(f"{SERVER_KEY_PREFIX}{kind}_")), "")
    return Surrounding("server key", shape + kind, ok=key.startswith(SERVER_KEY_PREFIX) or None)


def _name(host: str, port: int) -> Surrounding:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return Surrounding("name", f"the host is not found: {error.strerror}", ok=False)
    families = sorted({"IPv6" if family == socket.AF_INET6 else "IPv4" for family, *_ in found})
    number = len({address for *_, address in found})
    return Surrounding("name", f"found: {number} of {' and '.join(families)}", ok=True)


def _tls(scheme: str) -> Surrounding:
    if scheme != "https":
        return Surrounding("TLS", "not used: plain http", ok=True)
    for name in _CA_VARIABLES:
        path = os.environ.get(name)
        if path and not Path(path).exists():
            return Surrounding("TLS", f"{name} names a file that does not exist", ok=False)
    try:
        shared_context()
    except TLSSetupError as error:
        return Surrounding("TLS", str(error), ok=False)
    given = [name for name in _CA_VARIABLES if os.environ.get(name)]
    if given:
        return Surrounding("TLS", f"certificates of {' and '.join(given)}, {ssl.OPENSSL_VERSION}", ok=True)
    return Surrounding("TLS", f"the usual certificates, {ssl.OPENSSL_VERSION}", ok=True)
