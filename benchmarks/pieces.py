"""Pieces of a call, without I/O, against what the standard library needs for the same bytes; shown, without targets."""

import hmac
import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from benchmarks.request import API_KEY, BODY, CONTEXT, NAME, TRANSACTION, USER
from benchmarks.results import Row, ratio_row
from benchmarks.rounds import Effort, in_line, interleave
from benchmarks.server import EVENT_RESULT, CannedServer
from perkamo import Event, EventIngestResponse, ResponseMeta
from perkamo.decoding.answers import decode, decode_batch
from perkamo.encoding.encode import encode
from perkamo.signing import sign

_NESTED: Final = {
    f"key_{number}": {"sku": f"sku_{number}", "price": 1290, "tags": ["new", "blue"]} for number in range(20)
}
_ONE: Final = json.dumps(EVENT_RESULT).encode()
_HUNDRED: Final = json.dumps({"results": [EVENT_RESULT] * 100}).encode()
_META: Final = ResponseMeta()
_KEY: Final = API_KEY.encode()


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure events, contexts, answers and signatures."""
    del server
    often, seldom = effort.times(5000), effort.times(200)
    ways = {
        "event": in_line(lambda: Event(USER, NAME, TRANSACTION, CONTEXT).to_bytes(), often),
        "dumps": in_line(lambda: json.dumps(CONTEXT).encode(), often),
        "context": in_line(lambda: encode(_NESTED, "context"), seldom),
        "dumps nested": in_line(lambda: json.dumps(_NESTED), seldom),
        "one": in_line(lambda: decode(EventIngestResponse, _ONE, _META, "", None), often),
        "loads": in_line(lambda: json.loads(_ONE), often),
        "hundred": in_line(lambda: decode_batch(_HUNDRED, _META, "", 100), seldom),
        "loads hundred": in_line(lambda: json.loads(_HUNDRED), seldom),
        "sign": in_line(lambda: sign(API_KEY, "1780300800", "POST", "/v1/events", BODY), often),
        "hmac": in_line(lambda: hmac.digest(_KEY, sha256(BODY).digest(), "sha256"), often),
    }
    series = interleave(ways, effort)
    return [
        ratio_row("-", "event, checked, to bytes / `json.dumps` of its context", series, "event", "dumps"),
        ratio_row("-", "context of 20 nested keys, checked, to text / `json.dumps`", series, "context", "dumps nested"),
        ratio_row("-", "bytes to a typed result / `json.loads`", series, "one", "loads"),
        ratio_row("-", "bytes to 100 typed results / `json.loads`", series, "hundred", "loads hundred"),
        ratio_row("-", "signature / `hmac.digest` and `sha256` of the body", series, "sign", "hmac"),
    ]
