"""The sandbox's page: what a developer has on the second screen."""

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final
from urllib.parse import parse_qs

from perkamo.sandbox.arming import KINDS, read_order
from perkamo.sandbox.checks import read_object
from perkamo.sandbox.control import Answer
from perkamo.sandbox.faults import Faults
from perkamo.sandbox.live import Live
from perkamo.sandbox.messages import JsonObject, Request, Response, json_response
from perkamo.sandbox.routes import ROUTES

_INLINE: Final = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


def page_answers(live: Live, faults: Faults) -> Mapping[str, Answer]:
    """Return what answers the page and its requests, by method and path.

    Args:
        live: Tells the page what happens.
        faults: Where faults are armed.
    """

    def arm(request: Request) -> Response:
        order = read_order(read_object(request))
        faults.next(order.route, order.fault, times=order.times)
        return json_response(200, _armed(faults))

    def clear(_: Request) -> Response:
        faults.clear()
        return json_response(200, _armed(faults))

    def customers(request: Request) -> Response:
        wanted = parse_qs(request.target.partition("?")[2]).get("contains", [""])[0]
        return json_response(200, live.search(wanted))

    return {
        "GET /": lambda _: page(),
        "GET /_sandbox/live": live.answer,
        "GET /_sandbox/customers": customers,
        "GET /_sandbox/faults": lambda _: json_response(200, _armed(faults)),
        "POST /_sandbox/faults": arm,
        "DELETE /_sandbox/faults": clear,
    }


@cache
def page() -> Response:
    """Return the page, which may run its own script and call its own server, and nothing else.

    Script and style are allowed by their hash, so that markup that got into the page would still be dead; Trusted Types
    make assigning text to ``innerHTML`` an error.
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


def _armed(faults: Faults) -> JsonObject:
    return {
        "armed": [{"route": route, "faults": words} for route, words in faults.armed],
        "routes": list(ROUTES),
        "kinds": list(KINDS),
    }
