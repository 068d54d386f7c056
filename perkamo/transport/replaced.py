"""Finds tools that replace methods of httpx and httpcore, so that they see the requests of our own pool, too.

Test tools (respx, pytest-httpx, vcrpy) and telemetry (OpenTelemetry) replace methods of stock classes that our own pool
does not use. Before each request, this module checks whether these methods are still the original ones. If not, the
request is sent through the method that the tool watches. Names do not help: a wrapper made by ``functools.wraps`` has
the name of the function that it wraps. So the function itself is checked, and the module that its code is from.

A request may have the extension ``target``, the path that is sent; its URL then shows a template without ids.
Telemetry sees the template. A test tool, which answers by the URL, sees the path that is sent.
"""

import sys
from collections.abc import Awaitable, Callable
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

import httpx

if TYPE_CHECKING:
    import httpcore

Place: TypeAlias = Literal["telemetry", "transport", "below"]
"""Where a tool is: around httpx's transport as an observer, in its place, or anywhere below it."""

Send: TypeAlias = Callable[[httpx.Request], Awaitable[httpx.Response]]

_STOCK: Final = httpx.AsyncHTTPTransport
_METHOD: Final = "handle_async_request"
_BELOW: Final = ("AsyncConnectionPool", "AsyncHTTPConnection", "AsyncHTTP11Connection")
"""The classes of httpcore that a request of httpx's transport goes through."""
_ABOVE: Final = ("_send_single_request", "_transport_for_url")
"""The methods of httpx's client between its hooks and its transport."""


def tool_in_place() -> Place | None:
    """Return where a tool has replaced a method of httpx or httpcore, or None."""
    core = sys.modules.get("httpcore")  # not imported here: a tool that replaces something has imported it
    if core is None and httpx.AsyncHTTPTransport is _STOCK and getattr(_STOCK, _METHOD) is _STOCK_METHOD:
        return None  # as nearly always
    if core is not None and not all(_is_own(getattr(core, name, None), "httpcore.") for name in _BELOW):
        return "below"
    if httpx.AsyncHTTPTransport is not _STOCK:
        return "below"
    if _is_own(_STOCK, "httpx."):
        return None
    return "telemetry" if _is_watched() else "transport"


def tool_above() -> bool:
    """Return whether a tool replaces how httpx's clients choose a transport: it then answers, by the URL."""
    return not all(_is_of(getattr(httpx.AsyncClient, name, None), "httpx.") for name in _ABOVE)


def reveal(request: httpx.Request, place: Place | None) -> None:
    """Replace the template in a request's URL by the path that is sent, unless the tool is telemetry."""
    target = request.extensions.get("target")
    if target is None or (place == "telemetry" and httpcore_heeds_target()):
        return
    request.url = request.url.copy_with(raw_path=target)
    request.extensions = {name: value for name, value in request.extensions.items() if name != "target"}


class StandIn(httpx.AsyncHTTPTransport):
    """httpx's own transport, as tools know it, over our own pool.

    A tool that replaces ``handle_async_request`` sees the request; requests that it lets through continue as without
    the tool.

    Args:
        send: Sends a request.
    """

    def __init__(self, send: Send) -> None:
        # httpx's own __init__ is not called: it would make a pool and a TLS context that nobody uses.
        self._pool = _Pool(send)  # type: ignore[assignment]  # it has the methods that httpx calls


class _Pool:
    """The part of httpcore's pool that httpx's transport calls."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def handle_async_request(self, request: "httpcore.Request") -> "httpcore.Response":
        import httpcore  # noqa: PLC0415 - only tools need it, and httpx has imported it by now

        assert isinstance(request.stream, httpx.AsyncByteStream)
        url, extensions = request.url, cast("dict[str, object]", request.extensions)
        response = await self._send(
            httpx.Request(
                request.method.decode("ascii"),
                httpx.URL(
                    scheme=url.scheme.decode("ascii"),
                    host=url.host.decode("ascii"),
                    port=url.port,
                    raw_path=url.target,
                ),
                headers=request.headers,
                stream=request.stream,
                extensions=extensions,
            )
        )
        return httpcore.Response(
            response.status_code,
            headers=response.headers.raw,
            content=response.stream,
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Leave the pool open: it belongs to our own transport."""


def _is_own(cls: object, package: str) -> bool:
    """Return whether the code with which a class handles requests is from its own package."""
    return _is_of(getattr(cls, _METHOD, None), package)


def _is_of(method: object, package: str) -> bool:
    """Return whether the code of a method is from a package."""
    return type(method) is FunctionType and str(method.__globals__.get("__name__")).startswith(package)


_STOCK_METHOD: Final[object] = getattr(_STOCK, _METHOD) if _is_own(_STOCK, "httpx.") else None
"""httpx's own method, unless a tool took its place before this module was loaded."""


def _is_watched() -> bool:
    """Return whether the wrapper of httpx's own method only observes.

    Telemetry replaces a method by a proxy object (wrapt); test tools replace it by a function or a mock.
    """
    method: object = getattr(_STOCK, _METHOD)
    while type(method) is not FunctionType and (inner := getattr(method, "__wrapped__", None)) is not None:
        method = inner
    return _is_of(method, "httpx.")


@cache
def httpcore_heeds_target() -> bool:
    """Return whether httpcore sends the extension ``target`` (since 1.0.4)."""
    import httpcore  # noqa: PLC0415 - as above

    request = httpcore.Request("GET", "http://host/template", extensions={"target": b"/target"})
    return request.url.target == b"/target"
