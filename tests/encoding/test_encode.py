"""encode: JSON.stringify's bytes, and what is refused on the way."""

import copy
import json
import math
import pickle
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from types import MappingProxyType
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perkamo import OMIT, PerkamoValidationError, canonical_json
from perkamo.encoding.encode import JSONInput, encode, utf16_length
from tests.tables.refused import VALUES


class Plan(StrEnum):
    """A text enum."""

    PREMIUM = "premium"


class Size(IntEnum):
    """An integer enum."""

    LARGE = 3


class Words(str):
    """Text with another type."""

    __slots__ = ()


WRITTEN: list[tuple[object, str]] = [
    (None, "null"),
    (True, "true"),
    (False, "false"),
    (0, "0"),
    (-1, "-1"),
    (2**53 - 1, "9007199254740991"),
    (1.0, "1"),
    (-0.0, "0"),
    (0.1, "0.1"),
    (1.5, "1.5"),
    (1e20, "100000000000000000000"),
    (123456789012345680.0, "123456789012345680"),
    (1.2345678901234567e20, "123456789012345670000"),
    (1e21, "1e+21"),
    (1.5e300, "1.5e+300"),
    (0.0001, "0.0001"),
    (0.00001, "0.00001"),
    (1.5e-6, "0.0000015"),
    (1e-7, "1e-7"),
    (5e-324, "5e-324"),
    ("", '""'),
    ("a/b", '"a/b"'),
    ('"\\', '"\\"\\\\"'),
    ("\b\f\n\r\t\x00\x1f\x7f", '"\\b\\f\\n\\r\\t\\u0000\\u001f\x7f"'),
    ("Žluťoučký 😀\u2028", '"Žluťoučký 😀\u2028"'),
    (Words("a"), '"a"'),
    (Plan.PREMIUM, '"premium"'),
    (Size.LARGE, "3"),
    (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    (datetime(2026, 6, 1, 10, tzinfo=UTC), '"2026-06-01T10:00:00.000Z"'),
    (datetime(2026, 6, 1, 10, 0, 0, 123_999, timezone(timedelta(hours=2))), '"2026-06-01T08:00:00.123Z"'),
    (datetime(1, 1, 1, tzinfo=UTC), '"0001-01-01T00:00:00.000Z"'),
    ([], "[]"),
    ((), "[]"),
    ([1, [2, None]], "[1,[2,null]]"),
    ({}, "{}"),
    (MappingProxyType({"a": 1}), '{"a":1}'),
    ({"b": 1, "a": {"c": OMIT}}, '{"b":1,"a":{}}'),
    ({Plan.PREMIUM: 1}, '{"premium":1}'),
    ({"a": OMIT, "b": [{"c": OMIT}]}, '{"b":[{}]}'),
]


@pytest.mark.parametrize(("value", "text"), WRITTEN, ids=[text[:30] for _, text in WRITTEN])
def test_a_value_is_written_as_javascript_writes_it(value: object, text: str) -> None:
    """Each kind of value has JSON.stringify's text; catches spaces, escapes, float forms and dropped properties."""
    assert encode(value, "value") == text


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not on this machine")
def test_numbers_and_texts_agree_with_a_real_javascript() -> None:
    """A spread of floats and texts is written as Node.js writes it; catches every difference in number formats."""
    numbers = [
        sign * digits * 10.0**power for sign in (1, -1) for digits in (1, 1.5, 9.999) for power in range(-12, 30)
    ]
    values = [*numbers, 1 / 3, math.pi * 1e15, 2.0**70, "\u2028\x7f/é😀", '\x01"\\']

    ours = [encode(value, "value") for value in values]

    script = (
        "process.stdout.write(JSON.stringify(JSON.parse(require('fs').readFileSync(0)).map(v => JSON.stringify(v))))"
    )
    answer = subprocess.run(
        ["node", "-e", script], input=json.dumps(values), capture_output=True, text=True, check=True
    )
    assert ours == json.loads(answer.stdout)


@pytest.mark.parametrize(("name", "value", "path"), VALUES, ids=[name for name, _, _ in VALUES])
def test_what_the_service_cannot_hold_is_refused_with_its_path(name: str, value: object, path: str) -> None:
    """Each such value raises an error that names the path and a remedy, and can be printed; catches late failures."""
    with pytest.raises(PerkamoValidationError) as caught:
        encode({"v": value}, "context")

    assert caught.value.path == f"context.{path}"
    assert caught.value.field == "context"
    assert caught.value.outcome == "not_sent"
    assert str(caught.value).encode()
    assert caught.value.__context__ is None


def test_sixty_four_levels_pass_and_one_more_does_not() -> None:
    """The bound is exact; catches an off-by-one."""
    value: object = 1
    for _ in range(64):
        value = [value]

    assert encode(value, "v").count("[") == 64
    with pytest.raises(PerkamoValidationError, match="nested deeper than 64"):
        encode([value], "v")


def test_the_same_list_twice_is_no_cycle() -> None:
    """A container that stands in two places is written twice; catches a cycle check by identity alone."""
    shared = [1]

    assert encode({"a": shared, "b": [shared]}, "v") == '{"a":[1],"b":[[1]]}'


def test_omit_is_one_value_that_copies_to_itself() -> None:
    """Copies and pickles of OMIT are OMIT, so that identity tells it; catches a class without a reduce."""
    assert copy.deepcopy(OMIT) is OMIT
    assert pickle.loads(pickle.dumps(OMIT)) is OMIT
    assert repr(OMIT) == "OMIT"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [{"d": 1.0, "c": 2}]}, '{"a":[{"c":2,"d":1}],"b":1}'),
        ({"\ufb03": 1, "\U0001f600": 2}, '{"\U0001f600":2,"\ufb03":1}'),
        ({"n": 1e20, "m": 12900}, '{"m":12900,"n":100000000000000000000}'),
        (1.0, "1"),
    ],
)
def test_canonical_json_sorts_keys_by_their_utf16_units(value: JSONInput, text: str) -> None:
    """Equal values have equal text whatever their order; catches sorting by code points."""
    assert canonical_json(value) == text


def test_lengths_are_counted_in_utf16_units() -> None:
    """An emoji counts two, everything in the basic plane one; catches counting bytes or code points."""
    assert [utf16_length(text) for text in ("abc", "é", "\u6c49", "😀", "a😀")] == [3, 1, 1, 2, 3]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), inner)
    ),
    max_leaves=20,
)


@given(json_values)
def test_what_is_written_reads_as_the_same(value: JSONInput) -> None:
    """Any JSON value survives the way there and back; catches text that is no JSON or has lost digits."""
    assert json.loads(encode(value, "value"), parse_int=float) == value


def test_a_decimal_is_refused_with_the_line_to_write() -> None:
    """Every shop meets it first, and what the error shows works as it stands; catches advice that has to be guessed."""
    amount = Decimal("129.00")

    with pytest.raises(PerkamoValidationError) as caught:
        encode({"amount": amount}, "context")

    shown = re.findall(r"\w+\([^()]+\)", str(caught.value))
    values = [eval(line, {"amount": amount}) for line in shown]
    assert shown == ["int(amount * 100)", "str(amount)"]
    assert encode({"minor": values[0], "text": values[1]}, "context") == '{"minor":12900,"text":"129.00"}'
