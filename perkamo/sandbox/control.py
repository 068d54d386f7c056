"""The control plane of a running sandbox, ``/_sandbox/…``: for people and for tests in other processes."""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from perkamo.sandbox.messages import JsonObject, Request, Response, json_response

PREFIX: Final = "/_sandbox/"


class Control:
    """Answers requests below ``/_sandbox/``, which are neither logged nor struck by faults.

    Args:
        pages: What each GET answers, by name.
        reset: What ``POST /_sandbox/reset`` does.
    """

    def __init__(self, pages: dict[str, Callable[[], JsonObject]], reset: Callable[[], None]) -> None:
        self._pages = pages
        self._reset = reset

    def handle(self, request: Request) -> Response | None:
        """Answer a request of the control plane; None for every other."""
        if not request.path.startswith(PREFIX):
            return None
        if request.peer is not None and not ip_address(request.peer.partition("%")[0]).is_loopback:
            return json_response(403, {"message": "The control plane answers on this machine only"})
        name = request.path.removeprefix(PREFIX)
        page = self._reset_page if name == "reset" else self._pages.get(name)
        if page is None:
            return json_response(404, {"message": f"The control plane has {', '.join(self._pages)} and reset"})
        method = "POST" if name == "reset" else "GET"
        if request.method != method:
            return json_response(405, {"message": f"{name} takes {method} only"}, headers=(("allow", method),))
        return json_response(200, page())

    def _reset_page(self) -> JsonObject:
        self._reset()
        return {"reset": True}
