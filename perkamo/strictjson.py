"""The bytes of an answer -> JSON, or a reason why they can't be trusted.

Python's parser by itself takes NaN, infinities, duplicate keys, lone surrogates, other encodings and any depth, each of
which would mean something else to the next reader.
"""

import json
import math
import re
from typing import Final, NoReturn, cast

from perkamo.jsontext import JSONValue

MAX_DEPTH: Final = 64

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TOO_DEEP: Final = f"is nested deeper than {MAX_DEPTH} levels"


def parse(data: bytes) -> JSONValue:
    """Parse one JSON text, strictly.

    Args:
        data: The body, which has to be UTF-8 without a byte-order mark.

    Raises:
        ValueError: It is not JSON that can be trusted; the text says why, without any of the content.
    """
    try:
        text = data.decode()
        value = cast("JSONValue", _DECODER.decode(text))
        if (
            _count_keys(value) != data.count(b'":')
            or b'" ' in data
            or b'"\n' in data
            or b'"\t' in data
            or b'"\r' in data
        ):
            # As many colons after quotes as keys: then none stands twice. Else the slow way tells.
            _DECODER_OF_PAIRS.decode(text)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("is not JSON") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if b"\\u" in data and _SURROGATE.search(text):
        _check_surrogates(value)
    return value


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


# Integers are Python's own: beyond 4,300 digits it refuses them with a ValueError.
_DECODER: Final = json.JSONDecoder(parse_constant=_constant, parse_float=_float)
_DECODER_OF_PAIRS: Final = json.JSONDecoder(object_pairs_hook=_object)


def _count_keys(value: JSONValue) -> int:
    """Count the keys of all objects, going down level by level to the bound."""
    keys = 0
    level: list[list[JSONValue] | dict[str, JSONValue]] = [value] if isinstance(value, list | dict) else []
    for _ in range(MAX_DEPTH):
        below: list[list[JSONValue] | dict[str, JSONValue]] = []
        for container in level:
            items = container.values() if isinstance(container, dict) else container
            keys += len(items) if items is not container else 0
            below += [item for item in items if isinstance(item, (list, dict))]
        if not below:
            return keys
        level = below
    raise ValueError(_TOO_DEEP)


def _check_surrogates(value: JSONValue) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate") from None
