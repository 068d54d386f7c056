"""What tools put in the place of httpx's and httpcore's own classes, so that they see the requests of our pool, too.

Test tools (respx, pytest-httpx, vcrpy) and telemetry (OpenTelemetry) replace methods of stock classes that our own pool
does not use. Before each request this module looks whether httpx's own code is in these places. If not, the request
takes the way that the tool watches. Names say nothing here: a wrapper made by ``functools.wraps`` has the name of what
it wraps. What counts is the function itself and the module whose code it is.

A request may carry the extension ``target``, the path that is sent; its URL then shows a template without ids.
Telemetry sees the template. A test tool, which answers by the URL, sees what is sent.
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
"""Where a tool stands: around httpx's transport and looking on, in its place, or anywhere below it."""

Send: TypeAlias = Callable[[httpx.Request], Awaitable[httpx.Response]]

_STOCK: Final = httpx.AsyncHTTPTransport
_METHOD: Final = "handle_async_request"
_BELOW: Final = ("AsyncConnectionPool", "AsyncHTTPConnection", "AsyncHTTP11Connection")
"""The classes of httpcore that a request of httpx's transport goes through."""
_ABOVE: Final = ("_send_single_request", "_transport_for_url")
"""The methods of httpx's client between its hooks and its transport."""


def tool_in_place() -> Place | None:
    """Tell where a tool has replaced something of httpx's or httpcore's, or None."""
    core = sys.modules.get("httpcore")  # never imported to find out: who replaces something in it has imported it
    if core is not None and not all(_is_own(getattr(core, name, None), "httpcore.") for name in _BELOW):
        return "below"
    if httpx.AsyncHTTPTransport is not _STOCK:
        return "below"
    if _is_own(_STOCK, "httpx."):
        return None
    return "telemetry" if _is_watched() else "transport"


def tool_above() -> bool:
    """Return whether a tool stands where httpx's clients choose a transport: it answers by the URL, instead of ours."""
    return not all(_is_of(getattr(httpx.AsyncClient, name, None), "httpx.") for name in _ABOVE)


def reveal(request: httpx.Request, place: Place | None) -> None:
    """Give a request the URL that is sent in place of its template, unless only telemetry looks on."""
    target = request.extensions.get("target")
    if target is None or (place == "telemetry" and httpcore_heeds_target()):
        return
    request.url = request.url.copy_with(raw_path=target)
    request.extensions = {name: value for name, value in request.extensions.items() if name != "target"}


class StandIn(httpx.AsyncHTTPTransport):
    """httpx's own transport, as tools know it, over another pool than httpx's.

    A tool that is in the place of ``handle_async_request`` sees the request; what it lets through continues as if
    there were no tool.

    Args:
        send: Sends a request.
    """

    def __init__(self, send: Send) -> None:
        # Not httpx's own construction, which would make a pool and a TLS context that nobody uses.
        self._pool = _Pool(send)  # type: ignore[assignment]  # what httpx calls of it is there


class _Pool:
    """The part of httpcore's pool that httpx's transport calls."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def handle_async_request(self, request: "httpcore.Request") -> "httpcore.Response":
        import httpcore  # noqa: PLC0415 - httpx has imported it by now, and nobody else needs it

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
        """Keep the pool: it belongs to whoever sends."""


def _is_own(cls: object, package: str) -> bool:
    """Return whether a class handles requests by code of its own package."""
    return _is_of(getattr(cls, _METHOD, None), package)


def _is_of(method: object, package: str) -> bool:
    """Return whether a method is code of a package."""
    return type(method) is FunctionType and str(method.__globals__.get("__name__")).startswith(package)


def _is_watched() -> bool:
    """Return whether what stands around httpx's own method only looks on.

    Telemetry wraps a method into an object that stands for it (wrapt); test tools put a function or a mock there.
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
