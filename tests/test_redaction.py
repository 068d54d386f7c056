"""redaction: what others write is shown without what our request held, by value, whatever way it is written."""

import html
import json
import re
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from perkamo.redaction import MAX_TEXT, clean, without_personal_data

ID = "fred a/ž@x"
KEY = "live_without_prefix_5f2c"


def escaped(text: str) -> str:
    """Write a text with JSON's escapes for all but ASCII."""
    return json.dumps(text)[1:-1]


WAYS = {
    "as it is": ID,
    "percent-encoded": quote(ID, safe=""),
    "percent-encoded in lower case": quote(ID, safe="").lower(),
    "percent-encoded twice": quote(quote(ID, safe=""), safe=""),
    "as a form": quote_plus(ID),
    "JSON's escapes": escaped(ID),
    "JSON in JSON": json.dumps(json.dumps(ID)),
    "HTML's escapes": html.escape(ID).replace("ž", "&#382;"),
    "upper case": ID.upper(),
    "quoted": f'"{ID}"',
    "in a URL": f"https://host/v1/customer/{quote(ID, safe='')}/x",
    "glued to something": f"user_{ID}_x",
    "glued to letters": f"user{ID}x",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_value_is_hidden_however_it_is_written(way: str) -> None:
    """Catches an id that is known, and shown in another spelling."""
    shown = clean(f"no customer {WAYS[way]} here", ID)

    assert "***" in shown
    assert "fred" not in shown.lower()
    assert shown.startswith("no customer ")
    assert shown.endswith(" here")


@pytest.mark.parametrize(
    "value", ['Jan "Joe" Novák\nDlouhá 12\n110 00', "100%25 sure", "C:\\new\\users\\jan", "Tom&amp;Jan"]
)
@pytest.mark.parametrize("way", [str, json.dumps, repr, html.escape, quote, lambda one: json.dumps(json.dumps(one))])
def test_a_value_with_escapes_of_its_own_is_hidden(value: str, way: Callable[[str], str]) -> None:
    """An address over several lines, a path; catches a value that is known as it is and shown as it was written."""
    shown = clean(f"wrong: [{way(value)}]", value)

    assert re.fullmatch(r"""wrong: \[["'\\]*\*\*\*["'\\]*\]""", shown)


def test_a_key_without_its_usual_prefix_is_hidden_by_value() -> None:
    """Keys are known by value, not by shape; catches a key that leaks because it has no ``sk_``."""
    assert clean(f"unknown key {KEY}", KEY) == "unknown key ***"
    assert clean(f"unknown key {KEY[:20]}...", KEY) == "unknown key ***..."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key sk_live_5f2c is wrong", "key *** is wrong"),
        ("key pk_test_1", "key ***"),
        ("mail to jan.novák@example.com, please", "mail to ***, please"),
        ("bearer eyJhbGciOi.eyJzdWIiOiJ4In0.c2ln is old", "bearer *** is old"),
        ("ask_me about task_1", "ask_me about task_1"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_also_when_it_is_not_known(text: str, shown: str) -> None:
    """Keys, tokens and e-mail addresses of others; catches a shape that was dropped for values."""
    assert clean(text) == shown


def test_a_short_value_makes_no_holes_in_words() -> None:
    """Below six characters a value counts as a word of its own; catches ``*** ***ounts`` for an id like ``acc``."""
    assert clean("account acc of al", "acc", "al") == "account *** of al"
    assert clean("id_acc-acc.acc2", "acc") == "id_***-***.acc2"


def test_a_value_that_the_service_cut_off_is_hidden() -> None:
    """Services repeat the beginning of a long text; catches a name that shows because its end is missing."""
    note = "Deliver to Jana Nováková, Dlouhá 12, second floor, at eight"

    for length in range(16, len(note)):
        assert clean(f"too long: {note[:length]}…", note) == "too long: ***…"


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("customer_881234567", "no customer 'customer_8812'", "no customer '***'"),
        ("3f2b8c1a-1111-4222-8333-444444444444", "no customer 3f2b8c1a… here", "no customer ***… here"),
        ("CUSTOMER_881234567", "customer_881 is unknown", "*** is unknown"),
        ("customer_881234567", "customer_99, customer_, the customer", "customer_99, customer_, the customer"),
        ("customer_881234567", "customer_8812 and customer_88129", "*** and customer_88129"),
        ("customer_881234567", "xcustomer_8812", "xcustomer_8812"),
        ("order 66 of the shop", "order 66 is unknown", "order 66 is unknown"),
        ("purchase.completed", "purchase failed", "purchase failed"),
        ("/api/v1/items", "see /api/v1/", "see /api/v1/"),
    ],
)
def test_an_id_that_was_cut_off_short_is_hidden_where_it_is_a_word(value: str, text: str, shown: str) -> None:
    """From eight characters on, with a digit; catches a customer's id cut to twelve, and holes in sentences."""
    assert clean(text, value) == shown


def test_what_begins_within_the_window_is_not_shown_in_part() -> None:
    """A value across the end of what is looked at; catches the beginning of an id at the end of a text."""
    long_id = "user" * 60
    for start in range(900, 1200, 7):
        shown = clean("<" * start + long_id + " tail" * 2_000, long_id)
        assert "user" not in shown
    before = ("x" * 250 + " ") * 16 + "." * 75  # shrinks to a few characters, so that the end of the window is reached
    assert len(before) == 4091
    assert "cust" not in clean(before + "customer77 and more", "x" * 250, "customer77")


def test_a_text_is_one_bounded_line() -> None:
    """Control characters, line ends and length; catches a forged log line."""
    assert clean("a\r\nb\x1b[2Jc\u2028d") == "a b [2Jc d"
    assert len(clean("x" * 10_000)) == MAX_TEXT
    assert clean("x" * 10_000).endswith("…")
    assert clean("100 % sure, 5%25") == "100 % sure, 5%"
    assert clean("") == ""


@pytest.mark.parametrize(
    "text",
    ["a" * 8_000_000, "@" * 8_000_000, "a@" * 4_000_000, "%41" * 3_000_000, "\\u0041" * 1_300_000, "sk_" * 2_700_000],
    ids=lambda text: text[:6],
)
def test_the_work_does_not_grow_with_the_text(text: str) -> None:
    """8 MB cost what 4 kB cost; catches a pattern that tries again at each character (12 s)."""
    began = time.thread_time()
    clean(text, *(f"secret{number}" for number in range(1_000)))

    assert time.thread_time() - began < 1.0


def test_the_work_grows_with_the_number_of_values_only() -> None:
    """Ten times the values cost about ten times as much, up to a bound; catches all pairs of values and places."""
    text = "no customer secret5 " * 300

    def measure(count: int) -> float:
        secrets = [f"secret{number}" for number in range(count)]
        return min(_timed(text, secrets) for _ in range(3))

    assert measure(20_000) < 40 * measure(2_000) + 0.05
    assert clean(text, *map(str, range(1_000_000, 1_020_001))) == "***"


@pytest.mark.parametrize("head", ["a" * 16, "https://shop.example.com/p/"])
def test_values_that_begin_alike_cost_no_more(head: str) -> None:
    """As the links in a context do; catches all pairs of values and places, which took minutes."""
    text = head * (4_000 // len(head))
    began = time.thread_time()

    shown = clean(text, *(f"{head}{number}" for number in range(19_000)))

    assert time.thread_time() - began < 1.0
    assert shown == "***"


def _timed(text: str, secrets: list[str]) -> float:
    began = time.perf_counter()
    assert "secret5" not in clean(text, *secrets)
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("price", "price"),
        ("two words", "two words"),
        ("address2", "address2"),
        ("jan@example.com", "***"),
        ("+420 777 123 456", "***"),
        ("4111111111111111", "***"),
        ("sk_live_5f2c", "***"),
        ("x" * 65, "***"),
        ("customer_2026_06_01", "***"),
    ],
)
def test_a_key_that_looks_like_personal_data_is_cut(key: str, shown: str) -> None:
    """A context keyed by customers; catches an address in the path of a validation error."""
    assert without_personal_data(key) == shown
