"""parse: bytes of answers that can't be trusted."""

import pytest

from perkamo.encoding.parse import parse

pytestmark = pytest.mark.usefixtures("no_collector")

REFUSED: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "is not JSON"),
    ("HTML", b"<html>", "is not JSON"),
    ("two values", b"{}{}", "is not JSON"),
    ("byte-order mark", b"\xef\xbb\xbf{}", "is not JSON"),
    ("UTF-16", "{}".encode("utf-16"), "is not UTF-8"),
    ("invalid UTF-8", b'"\xff"', "is not UTF-8"),
    ("an encoded surrogate", b'"\xed\xa0\x80"', "is not UTF-8"),
    ("a raw NUL", b'"\x00"', "is not JSON"),
    ("NaN", b"[NaN]", "NaN"),
    ("Infinity", b"[-Infinity]", "infinity"),
    ("1e999", b"[1e999]", "too large"),
    ("5,000 digits", b"[" + b"9" * 5000 + b"]", "^holds an integer of too many digits$"),
    ("minus 4,301 digits", b"-" + b"1" * 4301, "digits"),
    ("a key twice", b'{"a":1,"b":{"a":1,"a":2}}', "same key twice"),
    ("a key twice, with blanks", b'{"a" :1,"a":2}', "same key twice"),
    ("a key twice, with line feeds", b'{"a"\n:1,"b":{"a"\t:1,"a":2}}', "same key twice"),
    ("a key twice, and a colon in a text", rb'{"a":1,"a":"\":"}', "same key twice"),
    ("a lone surrogate", rb'"\ud800"', "lone surrogate"),
    ("a lone low surrogate in a key", rb'{"\uDFFF":1}', "lone surrogate"),
    ("65 levels", b"[" * 65 + b"]" * 65, "deeper than 64"),
    ("65 levels of objects", b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
    ("100,000 levels", b"[" * 100_000 + b"]" * 100_000, "deeper than 64"),
]


@pytest.mark.parametrize(("data", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_text_that_means_different_things_to_different_readers_is_refused(data: bytes, reason: str) -> None:
    """Each raises a ValueError with a reason without content; catches Python's own lenience (row F43)."""
    with pytest.raises(ValueError, match=reason):
        parse(data)


def nested(depth: int, key: str | None = None) -> object:
    """Return lists of lists down to an empty one, or objects down to the number 1."""
    value: object = [] if key is None else 1
    for _ in range(depth - (key is None)):
        value = [value] if key is None else {key: value}
    return value


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b' {"a" : [1, 1.5, "\xc3\xa9", null, true]} ', {"a": [1, 1.5, "é", None, True]}),
        (rb'"\ud83d\ude00"', "😀"),
        (rb'"\\ud800"', "\\ud800"),
        (b"[" * 64 + b"]" * 64, nested(64)),
        (b'{"a":' * 64 + b"1" + b"}" * 64, nested(64, "a")),
        (b"null", None),
        (b"[" + b"[]," * 99 + b"[]]", [[]] * 100),
        (b"12345678901234567890", 12345678901234567890),
        (rb'{"a":"\":\" : "}', {"a": '":" : '}),
        (b'{\n  "a" : [1],\n  "b":\t{"a": 2}\n}', {"a": [1], "b": {"a": 2}}),
    ],
)
def test_a_sound_text_is_parsed(data: bytes, value: object) -> None:
    """Sound JSON passes, wide or 64 deep; catches a check that counts brackets in place of levels."""
    parsed = parse(data)

    assert parsed == value
    assert type(parsed) is type(value)
