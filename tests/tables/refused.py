"""Inputs that must be refused before anything is sent: (what it is, method, arguments, path of the offending value)."""

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Final

from attrs import frozen

from perkamo import OMIT, Event


class Colour(Enum):
    """An enum whose members are neither text nor integers."""

    RED = "red"


@frozen
class Point:
    """A value class, which JSON has no form for."""

    x: int = 1


class Lying(Mapping[object, object]):
    """A mapping whose keys are not text."""

    def __getitem__(self, key: object) -> object:
        return 1

    def __iter__(self) -> Iterator[object]:
        return iter([b"key"])

    def __len__(self) -> int:
        return 1


def deep(levels: int) -> dict[str, object]:
    """Nest that many objects."""
    value: dict[str, object] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def cyclic_dict() -> dict[str, object]:
    """A dict inside itself."""
    value: dict[str, object] = {}
    value["self"] = value
    return value


def cyclic_list() -> dict[str, object]:
    """A list inside itself."""
    value: list[object] = []
    value.append(value)
    return {"list": value}


_SURROGATE: Final = "\ud800"
_NAIVE: Final = datetime(2026, 6, 1, 10, 0, 0)  # noqa: DTZ001 - the missing zone is the point

# A value, what it is, and (with the value under context.v) the path that the error names.
VALUES: Final[list[tuple[str, object, str]]] = [
    ("NaN", float("nan"), "v"),
    ("infinity", float("inf"), "v"),
    ("minus infinity", float("-inf"), "v"),
    ("NaN in a list", [1, float("nan")], "v[1]"),
    ("NaN in an object in a list", [{"price": 1}, {"price": float("nan")}], "v[1].price"),
    ("2^53", 2**53, "v"),
    ("-2^53", -(2**53), "v"),
    ("10^5000", 10**5000, "v"),
    ("lone surrogate", _SURROGATE, "v"),
    ("lone surrogate within text", f"a{_SURROGATE}b", "v"),
    ("lone low surrogate", "\udfff", "v"),
    ("lone surrogate in a list", ["ok", _SURROGATE], "v[1]"),
    ("lone surrogate in a key", {_SURROGATE: 1}, 'v["\\ud800"]'),
    ("naive datetime", _NAIVE, "v"),
    ("datetime before year 1 in UTC", datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "v"),
    ("datetime after year 9999 in UTC", datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), "v"),
    ("date", date(2026, 6, 1), "v"),
    ("time", time(10, 0), "v"),
    ("timedelta", timedelta(seconds=1), "v"),
    ("Decimal", Decimal("1.5"), "v"),
    ("Decimal NaN", Decimal("NaN"), "v"),
    ("Fraction", Fraction(1, 2), "v"),
    ("complex", 1j, "v"),
    ("bytes", b"abc", "v"),
    ("bytearray", bytearray(b"abc"), "v"),
    ("memoryview", memoryview(b"abc"), "v"),
    ("set", {1}, "v"),
    ("frozenset", frozenset({1}), "v"),
    ("enum of another kind", Colour.RED, "v"),
    ("attrs object", Point(), "v"),
    ("plain object", object(), "v"),
    ("class", Point, "v"),
    ("function", len, "v"),
    ("generator", (n for n in [1]), "v"),
    ("range", range(3), "v"),
    ("deque", deque([1]), "v"),
    ("dict view", {}.keys(), "v"),
    ("OMIT in a list", [1, OMIT], "v[1]"),
    ("OMIT in a list in an object", {"a": [OMIT]}, "v.a[0]"),
    ("integer key", {1: "a"}, "v"),
    ("boolean key", {True: "a"}, "v"),
    ("None key", {None: "a"}, "v"),
    ("float key", {1.5: "a"}, "v"),
    ("tuple key", {("a",): 1}, "v"),
    ("bytes key", {b"a": 1}, "v"),
    ("enum key of another kind", {Colour.RED: 1}, "v"),
    ("empty key", {"": 1}, "v"),
    ("empty key deep down", {"a": [{"": 1}]}, "v.a[0]"),
    ("bytes key of a mapping", Lying(), "v"),
    ("key that is no identifier", {"two words": float("nan")}, 'v["two words"]'),
    ("key that may be a customer", {"jan@example.com": float("nan")}, 'v["***"]'),
    ("key that may be a telephone", {"+420777123456": [float("nan")]}, 'v["***"][0]'),
    ("exception", ValueError("x"), "v"),
    ("Event", Event("u", "e", "t"), "v"),
]

_RESERVED: Final = ("xp", "wallet", "wallets", "rewards", "level", "perks", "achievements")

# Ids: (what it is, the value). Every field that is an id refuses each of them.
IDS: Final[list[tuple[str, object]]] = [
    ("empty", ""),
    ("a space", " "),
    ("spaces and tabs", " \t "),
    ("a no-break space", "\u00a0"),
    ("NUL", "a\x00b"),
    ("line feed", "a\nb"),
    ("carriage return", "a\rb"),
    ("escape", "a\x1bb"),
    ("delete", "a\x7fb"),
    ("lone surrogate", f"a{_SURROGATE}"),
    ("integer", 1),
    ("boolean", True),
    ("float", 1.5),
    ("bytes", b"abc"),
    ("list", ["a"]),
    ("dict", {"a": 1}),
    ("enum of another kind", Colour.RED),
]

LONG: Final[list[tuple[str, str, int]]] = [
    ("too long in ASCII", "a", 1),
    ("too long in Latin", "é", 1),
    ("too long in Chinese", "\u6c49", 1),
    ("too long in emoji, which are two code units each", "\U0001f600", 2),
]

Row = tuple[str, str, tuple[object, ...], dict[str, object], str]

BAD_PATHS: Final = (
    *(f"/v1/x{sign}y" for sign in '<>"{}|^`[]'),
    "/v1/x%",
    "/v1/x%2",
    "/v1/x%zz",
    "/v1/..;/x",
    "/v1/..;a=b/x",
    "/v1/.;/x",
    "/v1/;a/x",
    "/v1/..%3B/x",
    "/v1/%252e%252e/x",
    "/v1/%25252e%25252e/x",
    "/v1/%2525252525/x",
    "/v1/a%2f..%2fb",
    "/v1/a%5c..%5Cb",
    "/v1/..%2Fx",
    "/v1/%c0%ae%c0%ae/x",
    "/v1/%ff",
    "/v1/x%00",
    "/v1/x%0d%0ahost:evil",
    "/v1/x/",
)
"""Paths that a server or gateway may read as another one, or that httpx would change after they were signed."""


def _rows() -> list[Row]:
    rows: list[Row] = []
    for name, value, path in VALUES:
        rows.append((f"emit: {name}", "emit", ("u", "e", {"v": value}), {}, f"context.{path}"))
    for name, value, path in VALUES[::6]:
        rows.append((f"identify: {name}", "identify", ("u", {"v": value}), {}, f"traits.{path}"))
        events = [{"user_id": "u", "event": "e", "transaction_id": "t", "context": {"v": value}}]
        rows.append((f"batch: {name}", "batch", (events,), {}, f"events[0].context.{path}"))
        rows.append((f"request: {name}", "request", ("POST", "/v1/x", {"v": value}), {}, f"json.{path}"))
    for name, value in IDS:
        rows.append((f"user_id: {name}", "emit", (value, "e"), {}, "user_id"))
        rows.append((f"event: {name}", "emit", ("u", value), {}, "event"))
        rows.append((f"transaction_id: {name}", "emit", ("u", "e"), {"transaction_id": value}, "transaction_id"))
        rows.append((f"customer: {name}", "customer", (value,), {}, "user_id"))
        rows.append((f"identify: user_id {name}", "identify", (value,), {}, "user_id"))
        rows.append((f"token: user_id {name}", "create_browser_token", ("pk_test", value), {}, "user_id"))
    for name, letter, units in LONG:
        rows.append((f"user_id: {name}", "emit", (letter * (256 // units + 1), "e"), {}, "user_id"))
        rows.append((f"event: {name}", "emit", ("u", letter * (128 // units + 1)), {}, "event"))
        over = letter * (256 // units + 1)
        rows.append((f"transaction_id: {name}", "emit", ("u", "e"), {"transaction_id": over}, "transaction_id"))
    written = [form for key in _RESERVED for form in (key, key.upper(), key.capitalize())]
    rows += [(f"reserved key {key}", "emit", ("u", "e", {key: 1}), {}, f"context.{key}") for key in written]
    return rows + _OTHERS


_OTHERS: Final[list[Row]] = [
    ("context is a list", "emit", ("u", "e", [1]), {}, "context"),
    ("context is text", "emit", ("u", "e", "a"), {}, "context"),
    ("context is OMIT", "emit", ("u", "e", OMIT), {}, "context"),
    ("context is a number", "emit", ("u", "e", 1), {}, "context"),
    ("context nested 65 deep", "emit", ("u", "e", deep(65)), {}, "context" + ".a" * 64),
    ("context nested 5,000 deep", "emit", ("u", "e", deep(5000)), {}, "context" + ".a" * 64),
    ("context in itself", "emit", ("u", "e", cyclic_dict()), {}, "context.self"),
    ("list in itself", "emit", ("u", "e", cyclic_list()), {}, "context.list[0]"),
    ("context of 300 kB", "emit", ("u", "e", {"a": "x" * 300_000}), {}, "context"),
    ("context of 300 kB in UTF-8", "emit", ("u", "e", {"a": "\u6c49" * 100_000}), {}, "context"),
    ("traits is a list", "identify", ("u", [1]), {}, "traits"),
    ("traits is text", "identify", ("u", "a"), {}, "traits"),
    ("traits nested 65 deep", "identify", ("u", deep(65)), {}, "traits" + ".a" * 64),
    ("occurred_at is naive", "emit", ("u", "e"), {"occurred_at": _NAIVE}, "occurred_at"),
    ("occurred_at is naive text", "emit", ("u", "e"), {"occurred_at": "2026-06-01T10:00:00"}, "occurred_at"),
    ("occurred_at is no date", "emit", ("u", "e"), {"occurred_at": "yesterday"}, "occurred_at"),
    ("occurred_at is empty", "emit", ("u", "e"), {"occurred_at": ""}, "occurred_at"),
    ("occurred_at is a date", "emit", ("u", "e"), {"occurred_at": date(2026, 6, 1)}, "occurred_at"),
    ("occurred_at is a number", "emit", ("u", "e"), {"occurred_at": 1_780_000_000}, "occurred_at"),
    ("occurred_at is a boolean", "emit", ("u", "e"), {"occurred_at": True}, "occurred_at"),
    ("occurred_at is out of range", "emit", ("u", "e"), {"occurred_at": "0001-01-01T00:00:00+01:00"}, "occurred_at"),
    ("customer .", "customer", (".",), {}, "user_id"),
    ("customer ..", "customer", ("..",), {}, "user_id"),
    ("batch of none", "batch", ([],), {}, "events"),
    ("batch of 101", "batch", ([Event("u", "e", f"t{n}") for n in range(101)],), {}, "events"),
    ("batch is one event", "batch", (Event("u", "e", "t"),), {}, "events"),
    ("batch is a mapping", "batch", ({"user_id": "u"},), {}, "events"),
    ("batch is text", "batch", ("abc",), {}, "events"),
    ("batch is None", "batch", (None,), {}, "events"),
    ("batch event without id", "batch", ([Event("u", "e")],), {}, "events[0].transaction_id"),
    ("batch mapping without id", "batch", ([{"user_id": "u", "event": "e"}],), {}, "events[0].transaction_id"),
    ("batch mapping without user", "batch", ([{"event": "e", "transaction_id": "t"}],), {}, "events[0].user_id"),
    ("batch mapping without event", "batch", ([{"user_id": "u", "transaction_id": "t"}],), {}, "events[0].event"),
    ("batch mapping in camelCase", "batch", ([{"userId": "u", "event": "e"}],), {}, "events[0].event"),
    ("batch of text", "batch", (["a"],), {}, "events[0].event"),
    ("batch with None", "batch", ([Event("u", "e", "t"), None],), {}, "events[1].event"),
    (
        "batch with one id on two events",
        "batch",
        ([Event("u", "e", "t", occurred_at=datetime.now(UTC)), Event("u", "other", "t")],),
        {},
        "events[1].transaction_id",
    ),
    ("ttl 0", "create_browser_token", ("pk_test", "u"), {"ttl_seconds": 0}, "ttl_seconds"),
    ("ttl 1801", "create_browser_token", ("pk_test", "u"), {"ttl_seconds": 1801}, "ttl_seconds"),
    ("ttl -1", "create_browser_token", ("pk_test", "u"), {"ttl_seconds": -1}, "ttl_seconds"),
    ("ttl True", "create_browser_token", ("pk_test", "u"), {"ttl_seconds": True}, "ttl_seconds"),
    ("ttl 1.5", "create_browser_token", ("pk_test", "u"), {"ttl_seconds": 1.5}, "ttl_seconds"),
    ("ttl as text", "create_browser_token", ("pk_test", "u"), {"ttl_seconds": "600"}, "ttl_seconds"),
    ("stream ttl 0", "create_stream_token", ("pk_test", "u"), {"ttl_seconds": 0}, "ttl_seconds"),
    ("stream ttl 1801", "create_stream_token", ("pk_test", "u"), {"ttl_seconds": 1801}, "ttl_seconds"),
    ("empty browser key", "create_browser_token", ("", "u"), {}, "browser_key"),
    ("browser key with a space", "create_browser_token", ("pk test", "u"), {}, "browser_key"),
    ("browser key with a line feed", "create_browser_token", ("pk_test\n", "u"), {}, "browser_key"),
    ("browser key in Cyrillic", "create_browser_token", ("\u0440k_test", "u"), {}, "browser_key"),
    ("browser key None", "create_browser_token", (None, "u"), {}, "browser_key"),
    ("server key as browser key", "create_stream_token", ("sk_test_other", "u"), {}, "browser_key"),
    ("request TRACE", "request", ("TRACE", "/v1/x"), {}, "method"),
    ("request without method", "request", (None, "/v1/x"), {}, "method"),
    ("request GET with a body", "request", ("GET", "/v1/x", {}), {}, "json"),
    ("request to /v2", "request", ("GET", "/v2/x"), {}, "path"),
    ("request to /v1/", "request", ("GET", "/v1/"), {}, "path"),
    ("request to another host", "request", ("GET", "https://evil.test/v1/x"), {}, "path"),
    ("request to //evil", "request", ("GET", "//evil.test/v1/x"), {}, "path"),
    ("request with ..", "request", ("GET", "/v1/../x"), {}, "path"),
    ("request with %2e%2e", "request", ("GET", "/v1/%2e%2E/x"), {}, "path"),
    ("request with an empty segment", "request", ("GET", "/v1//x"), {}, "path"),
    ("request with a fragment", "request", ("GET", "/v1/x#y"), {}, "path"),
    ("request with a space", "request", ("GET", "/v1/x y"), {}, "path"),
    ("request with a backslash", "request", ("GET", "/v1/x\\y"), {}, "path"),
    ("request with a line feed", "request", ("GET", "/v1/x\r\nhost: evil"), {}, "path"),
    ("request with a foreign letter", "request", ("GET", "/v1/\u00e9"), {}, "path"),
    ("request POST with a query", "request", ("POST", "/v1/x?y=1", {}), {}, "path"),
    ("request path as bytes", "request", ("GET", b"/v1/x"), {}, "path"),
    *((f"request to {path}", "request", ("POST", path, {}), {}, "path") for path in BAD_PATHS),
]

ROWS: Final = _rows()
