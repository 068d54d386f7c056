"""The bytes of an answer -> JSON, or a reason why they can't be trusted.

Python's parser by itself takes NaN, infinities, duplicate keys, lone surrogates, other encodings and any depth, each of
which would mean something else to the next reader.
"""

import json
import math
import re
from typing import Final, NoReturn, TypeAlias, cast

from perkamo.jsontext import JSONValue

MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 400
"""More digits than any float can have; Python alone would spend quadratic time on them."""

_Containers: TypeAlias = "list[list[JSONValue] | dict[str, JSONValue]]"
_MAYBE_SURROGATE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")


def parse(data: bytes) -> JSONValue:
    """Parse one JSON text, strictly.

    Args:
        data: The body, which has to be UTF-8 without a byte-order mark.

    Raises:
        ValueError: It is not JSON that can be trusted; the text says why, without any of the content.
    """
    try:
        value = cast("JSONValue", _DECODER.decode(data.decode()))
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("is not JSON") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if _MAYBE_SURROGATE.search(data):
        _check_surrogates(value)
    return value


_TOO_DEEP: Final = f"is nested deeper than {MAX_DEPTH} levels"


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("has the same key twice in one object")
    return made


def _constant(_name: str) -> NoReturn:
    raise ValueError("holds NaN or an infinity")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("holds a number that is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("holds a number that is too long")
    return int(text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer
)


def _check_depth(value: JSONValue) -> None:
    level: _Containers = [value] if isinstance(value, list | dict) else []
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, list | dict)
        ]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _check_surrogates(value: JSONValue) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate") from None
