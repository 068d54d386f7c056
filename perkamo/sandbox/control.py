"""The control plane of a running sandbox, ``/`` and ``/_sandbox/…``: for people and for tests in other processes."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from attrs import evolve

from perkamo.sandbox.checks import CheckError
from perkamo.sandbox.guard import rejection_reason
from perkamo.sandbox.messages import Headers, Request, Response, StreamingResponse, json_response

PREFIX: Final = "/_sandbox/"
HEALTH_PATH: Final = "/healthz"
"""For container probes: answers every client, under any host name, and shows nothing but that it runs."""

SAFETY: Final[Headers] = (
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
)
"""Sent with every answer of the control plane, unless the answer has one of its own. There are no CORS headers."""

Answer: TypeAlias = Callable[[Request], Response | StreamingResponse]


class Control:
    """Answers ``/`` and requests below ``/_sandbox/``. They are not logged, and faults do not apply to them.

    Args:
        answers: The handlers, by method and path, such as ``"GET /_sandbox/health"``.
        exposed: Whether other machines get answers, too.
    """

    def __init__(self, answers: Mapping[str, Answer], *, exposed: bool = False) -> None:
        self._answers = answers
        self._exposed = exposed

    def handle(self, request: Request) -> Response | StreamingResponse | None:
        """Answer a request of the control plane; return None for any other request."""
        if request.path == HEALTH_PATH and request.method in ("GET", "HEAD"):
            return json_response(200, {"status": "ok"}, headers=SAFETY)
        if request.path != "/" and not request.path.startswith(PREFIX):
            return None
        answer = self._answer(request)
        own = {name for name, _ in answer.headers}
        return evolve(answer, headers=(*answer.headers, *(pair for pair in SAFETY if pair[0] not in own)))

    def _answer(self, request: Request) -> Response | StreamingResponse:
        problem = rejection_reason(request, exposed=self._exposed)
        if problem is not None:
            return json_response(403, {"message": problem})
        answer = self._answers.get(f"{request.method} {request.path}")
        if answer is None:
            return self._lead(request.path)
        try:
            return answer(request)
        except CheckError as error:
            return json_response(error.status, {"message": str(error)})

    def _lead(self, path: str) -> Response:
        """Answer a request without a handler: 405 with the right methods, or 404 with the right paths."""
        calls = [call.partition(" ") for call in self._answers]
        methods = ", ".join(method for method, _, known in calls if known == path)
        if methods:
            return json_response(405, {"message": f"{path} takes {methods} only"}, headers=(("allow", methods),))
        paths = ", ".join(dict.fromkeys(known for _, _, known in calls))
        return json_response(404, {"message": f"The control plane has {paths}"})
