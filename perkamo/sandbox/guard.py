"""Who may use the control plane: programs on this machine and the sandbox's own page, but not other web sites.

A browser on a developer's machine runs scripts of every open site, and these can reach loopback. Three checks recognize
them: the address that the connection comes from, the host name that was called (against DNS rebinding, where a foreign
name points at this machine), and the browser's headers about the page that makes the request.

An exposed sandbox lets other machines in, too. Web sites are still refused: the host name must be one that cannot be
registered, so that no foreign name can point here.
"""

from ipaddress import ip_address
from typing import Final

from perkamo.sandbox.messages import Request

_OWN_SITES: Final = ("same-origin", "none")
_ONCE: Final = ("host", "origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
_PRIVATE_NAMES: Final = (".internal", ".local", ".test", ".lan", ".home.arpa")
"""Endings that are not public domains: Docker, Kubernetes and home networks use them."""


def rejection_reason(request: Request, *, exposed: bool = False) -> str | None:
    """Return why a request must not reach the control plane, or None if it may.

    A call inside the process (without a peer) always may: a browser cannot make it.

    Args:
        request: The request.
        exposed: Whether other machines may use the control plane.
    """
    if request.peer is None:
        return None
    if not (exposed or _is_loopback(request.peer)):
        return "The control plane answers on this machine only"
    names = [name for name, _ in request.headers]
    if any(names.count(name) > 1 for name in _ONCE):
        return "The control plane takes each header once only: a second one could hide the first"
    host = request.header("host")  # every browser sends it
    if host is not None and not _names_the_sandbox(host, exposed=exposed):
        return "The control plane answers to the names of this machine only, such as localhost or 127.0.0.1"
    return "The control plane does not answer other web sites" if _is_foreign(request, host) else None


def _is_foreign(request: Request, host: str | None) -> bool:
    """Return whether the request comes from another web site, by the browser's headers."""
    if request.header("origin") not in (None, f"http://{host}"):
        return True
    return request.header("sec-fetch-site") not in (None, *_OWN_SITES) and not _follows_a_link(request)


def _follows_a_link(request: Request) -> bool:
    """Return whether the request only opens the page, from any link: the other site can't read the page."""
    opens = (request.header("sec-fetch-mode"), request.header("sec-fetch-dest")) == ("navigate", "document")
    return opens and (request.method, request.path) == ("GET", "/")


def _names_the_sandbox(host: str, *, exposed: bool) -> bool:
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        port = port.removeprefix(":") if bracket else "?"
    else:
        name, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return False
    name = name.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost") or _is_loopback(name):
        return True
    return exposed and _is_private(name)


def _is_private(name: str) -> bool:
    """Return whether a web site can't have this name: an address, a single word as in Compose, or a private ending."""
    if _is_address(name):
        return True
    return (
        bool(name)
        and all(sign.isalnum() or sign in "-_." for sign in name)
        and ("." not in name or name.endswith(_PRIVATE_NAMES))
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    return _is_address(address) and ip_address(address.partition("%")[0]).is_loopback
