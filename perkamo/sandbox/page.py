"""The sandbox's page, for a developer's second screen."""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final
from urllib.parse import parse_qs

from perkamo.sandbox.arming import KINDS, read_fault_request
from perkamo.sandbox.checks import CheckError, read_object
from perkamo.sandbox.control import Answer
from perkamo.sandbox.detail import customer_detail, event_detail, request_detail, send_event
from perkamo.sandbox.live import Live
from perkamo.sandbox.messages import Instruction, JsonObject, Request, Response, json_response
from perkamo.sandbox.routes import ROUTES
from perkamo.sandbox.shown import Shown

_INLINE: Final = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


def page_answers(shown: Shown, api_key: str, send: Callable[[Request], Instruction]) -> Mapping[str, Answer]:
    """Return the handlers of the page and its requests, by method and path.

    Args:
        shown: The data of the page.
        api_key: The key that this sandbox accepts.
        send: Answers a call of the API, for events that are sent from the page.
    """
    faults = shown.faults

    def arm(request: Request) -> Response:
        fault_request = read_fault_request(read_object(request))
        faults.next(fault_request.route, fault_request.fault, times=fault_request.times)
        return json_response(200, _armed(shown))

    def disarm(request: Request) -> Response:
        numbers = parse_qs(request.target.partition("?")[2], keep_blank_values=True).get("number")
        if numbers is None:
            faults.clear()
        elif not (numbers[0].isascii() and numbers[0].isdigit() and faults.remove(int(numbers[0]))):
            raise CheckError("there is no such fault; it may have been removed", 404)
        return json_response(200, _armed(shown))

    return {
        "GET /": lambda _: page(),
        "GET /_sandbox/live": Live(shown, api_key).answer,
        "GET /_sandbox/customer": lambda request: customer_detail(shown, request),
        "GET /_sandbox/event": lambda request: event_detail(shown, request),
        "GET /_sandbox/request": lambda request: request_detail(shown, request),
        "POST /_sandbox/send": lambda request: send_event(shown, api_key, send, request),
        "GET /_sandbox/faults": lambda _: json_response(200, _armed(shown)),
        "POST /_sandbox/faults": arm,
        "DELETE /_sandbox/faults": disarm,
    }


@cache
def page() -> Response:
    """Return the page, which may only run its own script and call its own server.

    Script and style are allowed by their hash, so that injected markup would do nothing. Trusted Types make assigning
    text to ``innerHTML`` an error.
    """
    html = files("perkamo.sandbox").joinpath("page.html").read_bytes()
    hashes = {kind.decode(): _hash(text) for kind, text in _INLINE.findall(html)}
    policy = (
        "default-src 'none'",
        f"script-src '{hashes['script']}'",
        f"style-src '{hashes['style']}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    headers = (("content-type", "text/html; charset=utf-8"), ("content-security-policy", "; ".join(policy)))
    return Response(200, headers, html)


def _hash(text: bytes) -> str:
    return f"sha256-{b64encode(sha256(text).digest()).decode()}"


def _armed(shown: Shown) -> JsonObject:
    return {"armed": shown.armed(), "routes": list(ROUTES), "kinds": list(KINDS)}
