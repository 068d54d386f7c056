"""Who may use the control plane: this machine's programs and the sandbox's own page, and no other web site.

A browser on a developer's machine runs scripts of every site that is open in it, and these reach loopback. Three things
tell them apart: where the connection comes from, the name that the browser was told to call (against DNS rebinding:
a foreign name that points at this machine), and what the browser says of the page that asks.
"""

from ipaddress import ip_address
from typing import Final

from perkamo.sandbox.messages import Request

_OWN_SITES: Final = ("same-origin", "none")


def rejection_reason(request: Request) -> str | None:
    """Return why a request must not reach the control plane, or None for one that may.

    A call inside the process (without a peer) may always: no browser can make it.
    """
    if request.peer is None:
        return None
    if not _is_loopback(request.peer):
        return "The control plane answers on this machine only"
    host = request.header("host")  # every browser sends it
    if host is not None and not _names_this_machine(host):
        return "The control plane answers to the names of this machine only, such as localhost or 127.0.0.1"
    if request.header("origin") not in (None, f"http://{host}"):
        return "The control plane answers no other web site"
    if request.header("sec-fetch-site") not in (None, *_OWN_SITES) and not _follows_a_link(request):
        return "The control plane answers no other web site"
    return None


def _follows_a_link(request: Request) -> bool:
    """Tell whether somebody opens the page, from wherever the link is: the other site sees nothing of it."""
    opens = (request.header("sec-fetch-mode"), request.header("sec-fetch-dest")) == ("navigate", "document")
    return opens and (request.method, request.path) == ("GET", "/")


def _names_this_machine(host: str) -> bool:
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        port = port.removeprefix(":") if bracket else "?"
    else:
        name, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return False
    name = name.lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
