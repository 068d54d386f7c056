"""The bytes of an answer -> JSON, or a reason why they can't be trusted.

Python's parser by itself takes NaN, infinities, duplicate keys, lone surrogates, other encodings and any depth, each of
which would mean something else to the next reader.
"""

import json
import math
import re
from typing import Final, NoReturn, cast

from perkamo.encoding.encode import JSONValue

MAX_DEPTH: Final = 64

_AFTER_QUOTES: Final = (b'" ', b'"\n', b'"\t', b'"\r')
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
        keys = data.count(b'":')
        if _count_keys(value) != keys or (data.count(b":") != keys and any(blank in data for blank in _AFTER_QUOTES)):
            # As many colons right after quotes as keys: then none stands twice. Else the slow way tells.
            _DECODER_OF_PAIRS.decode(text)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("is not JSON") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:
        if "digits" in str(error):  # Python's own text, which tells of a setting of the interpreter
            raise ValueError("holds an integer of too many digits") from None
        raise
    if "\\" in text and _SURROGATE.search(text):
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


# Integers are read by Python itself: beyond 4,300 digits it refuses them with a ValueError.
_DECODER: Final = json.JSONDecoder(parse_constant=_constant, parse_float=_float)
_DECODER_OF_PAIRS: Final = json.JSONDecoder(object_pairs_hook=_object)


def _count_keys(value: JSONValue) -> int:
    """Count the keys of all objects, going down level by level to the bound."""
    keys = 0
    level: list[JSONValue] = [value]
    for depth in range(MAX_DEPTH + 1):
        is_leaf = True
        below: list[JSONValue] = []
        for one in level:  # exact types: the parser makes no others, and asking for them is quick
            if type(one) is dict:
                keys += len(one)
                below += one.values()
                is_leaf = False
            elif type(one) is list:
                below += one
                is_leaf = False
        if is_leaf:
            return keys
        if depth == MAX_DEPTH:
            break
        level = below
    raise ValueError(_TOO_DEEP)


def _check_surrogates(value: JSONValue) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("contains a lone surrogate") from None
