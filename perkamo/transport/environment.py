"""The proxy that the environment asks for, read as httpx and curl read it."""

import os
import re
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.request import getproxies, proxy_bypass

import httpx

from perkamo.transport.proxy import Proxy
from perkamo.transport.resolver import is_loopback

_PORTS: Final = {"http": 80, "https": 443}


def environment_proxy(url: httpx.URL) -> Proxy | None:
    """Return the proxy for a service; None for a direct connection. This machine itself is never behind a proxy.

    ``HTTPS_PROXY`` or ``HTTP_PROXY`` is read, depending on the scheme of the service, then ``ALL_PROXY`` and
    ``NO_PROXY``; each in lower case as well. If none is set, the system's settings apply on macOS and Windows.

    Args:
        url: The URL of the service.
    """
    proxies = getproxies()
    kind = url.scheme if proxies.get(url.scheme) else "all"
    given = proxies.get(kind)
    if not given or is_loopback(url.host) or proxy_bypass(url.host) or is_exempt(url, proxies.get("no", "")):
        return None
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    name = next((name for name in names if os.environ.get(name)), "the system's settings")
    return Proxy(given if "://" in given else f"http://{given}", f"the proxy in {name}")


def is_exempt(url: httpx.URL, no_proxy: str) -> bool:
    """Return whether ``NO_PROXY`` exempts a service.

    Args:
        url: The URL of the service.
        no_proxy: Names (which include their subdomains), addresses and networks, separated by commas or spaces. Each
            may have a port; an IPv6 address with a port is in brackets. ``*`` alone means everything.
    """
    return any(_is_meant(url, entry) for entry in re.split(r"[,\s]+", no_proxy) if entry)


def _is_meant(url: httpx.URL, entry: str) -> bool:
    if entry == "*":
        return True
    scheme, _, entry = entry.rpartition("://")
    if scheme.lower() not in {"", "all", url.scheme}:
        return False
    name, port = _split_port(entry)
    if port and port != str(url.port or _PORTS.get(url.scheme)):
        return False
    try:
        address = ip_address(url.host)
    except ValueError:
        return _is_within(url.host, name) or _is_within(url.raw_host.decode("ascii"), name)
    try:
        return address in ip_network(name, strict=False)
    except ValueError:
        return False


def _split_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name + (rest if rest.startswith("/") else ""), rest.removeprefix(":") if rest.startswith(":") else ""
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, port
    return entry, ""


def _is_within(host: str, domain: str) -> bool:
    host, domain = host.lower().rstrip("."), domain.lower().rstrip(".").rstrip("/").removeprefix(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))
