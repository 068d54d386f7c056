"""The control plane of a running sandbox: ``/_sandbox/…``, for people and for tests in other processes and languages."""

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
        if name == "reset":
            if request.method != "POST":
                return json_response(405, {"message": "reset takes POST only"}, headers=(("allow", "POST"),))
            self._reset()
            return json_response(200, {"reset": True})
        page = self._pages.get(name)
        if page is None:
            return json_response(404, {"message": f"The control plane has {', '.join(self._pages)} and reset"})
        if request.method != "GET":
            return json_response(405, {"message": f"{name} takes GET only"}, headers=(("allow", "GET"),))
        return json_response(200, page())
