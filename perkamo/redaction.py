"""What keeps keys, tokens and personal data out of texts that others may read: messages and log records."""

import logging
import re
from bisect import bisect_left
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final
from urllib.parse import unquote

MAX_TEXT: Final = 200
MAX_CLEANED: Final = 4096
_SHOWN: Final = 1024
"""Characters of a foreign text that are looked at, and that may be shown: what begins among these ends within those."""
_MAX_SECRETS: Final = 20_000
_DEEPEST: Final = 3

_SHORTEST_SECRET: Final = 3
"""An id of one or two letters names nobody, and hiding it would make holes in every sentence."""
_WORD_LIKE: Final = 6
"""A shorter secret counts only where it stands as a word of its own."""
_HEAD: Final = 16
"""What begins with so many characters of a longer secret is a part of it: services cut off what they repeat."""
_SHORT_HEAD: Final = 8
"""So many are enough in a word of its own that has a digit, as ids have: no sentence holds one by chance."""

_ATOM = r"[^\s\x00-\x1f\x7f@\"'<>(),;:]"
_EMAIL = f"(?<!{_ATOM}){_ATOM}+@{_ATOM}+"
_KEY = r"\b[sp]k_[A-Za-z0-9_\-]+"
_JWT = r"\beyJ[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-.]+"
# Texts, which ``re`` compiles when an error first needs them, and keeps.
_SHAPES: Final = f"{_KEY}|{_JWT}|{_EMAIL}"
_UNPRINTABLE: Final = r"[^\x20-\x7e\xa0-\u200a\u2010-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd]+"
"""Also what separates lines, or turns the direction of what follows."""
_ESCAPE: Final = r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))"
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " ", '"': '"', "'": "'", "/": "/", "\\": "\\"}
# Whatever has a digit and is neither a sentence nor a path.
_ID: Final = r"[^\s/]*\d[^\s/]*"
_SPACES = str.maketrans("+\t\n\r\xa0", "     ")

current_call: ContextVar[str | None] = ContextVar("perkamo_call", default=None)
"""Method and endpoint, without ids, of the call that this task or thread is making."""


class Secrets:
    """Texts that no message may repeat, such as the ids that were in the request; prepared once for many messages.

    Args:
        texts: The texts as they were sent.
    """

    __slots__ = ("_by_head", "_by_short_head", "_lengths")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        known: set[str] = set()
        for text in texts:
            if len(text) >= _SHORTEST_SECRET:
                written = text[:MAX_CLEANED]
                known.add(_comparable(written).strip())
                if (meant := _decoded(written)) is not written:
                    known.add(_comparable(meant).strip())
        self._by_head: dict[str, list[str]] | None = None if len(known) > _MAX_SECRETS else {}
        self._by_short_head: dict[str, list[str]] = {}
        if self._by_head is not None:
            for text in sorted(known - {""}):
                self._by_head.setdefault(text[:_HEAD], []).append(text)
                if len(text) > _SHORT_HEAD and re.fullmatch(_ID, text):
                    self._by_short_head.setdefault(text[:_SHORT_HEAD], []).append(text)
        self._lengths: list[int] = sorted({len(head) for head in self._by_head or ()})

    def clean(self, text: str) -> str:
        """Return a foreign text fit for a message: one line, bounded, without these, keys or e-mail addresses.

        The work does not grow with the text, nor with the number of secrets.

        Args:
            text: What another party wrote, such as the ``message`` of an error answer. It may hold a secret in any case
                of letters, percent-encoded, with the escapes of JSON or HTML, or cut off.
        """
        if self._by_head is None:
            return "***"
        plain = _decoded(text[:MAX_CLEANED])
        hidden = bytearray(len(plain))
        for match in re.finditer(_SHAPES, plain):
            _hide(hidden, match.start(), match.end())
        comparable = _comparable(plain)
        for length in self._lengths:
            for start in range(len(comparable) - length + 1):
                found = self._by_head.get(comparable[start : start + length])
                if found is not None and (end := _end_of_longest(found, comparable, start)):
                    _hide(hidden, start, end)
        for start in range(len(comparable) - _SHORT_HEAD + 1 if self._by_short_head else 0):
            found = self._by_short_head.get(comparable[start : start + _SHORT_HEAD])
            if found is not None and (end := _end_of_cut(found, comparable, start)):
                _hide(hidden, start, end)
        end = len(plain) if len(text) <= MAX_CLEANED else _SHOWN
        shown = re.sub(_UNPRINTABLE, " ", "".join(_pieces(plain, hidden, end)))
        return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"


def clean(text: str, *secrets: str) -> str:
    """Return one foreign text fit for a message; see ``Secrets.clean``."""
    return Secrets(secrets).clean(text)


def without_personal_data(key: str) -> str:
    """Return the key of a context as an error may name it: ``***`` where it looks like personal data or a secret.

    Args:
        key: A key as the caller wrote it.
    """
    looks_personal = re.search(_SHAPES, key) or len(key) > _LONGEST_KEY or sum(map(str.isdigit, key)) >= _MANY_DIGITS
    return "***" if looks_personal else key


_LONGEST_KEY: Final = 64
_MANY_DIGITS: Final = 6
"""As a telephone, account or customer number has."""


def _decoded(text: str) -> str:
    """Undo percent-encoding and the escapes of JSON and HTML, of which each may be there twice."""
    if not ("%" in text or "\\" in text or "&" in text):
        return text
    for _ in range(_DEEPEST):
        before = text
        if "%" in text:
            text = unquote(text)
        if "\\" in text:
            text = re.sub(_ESCAPE, _unescaped, text)
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if "&" in text:
            from html import unescape  # noqa: PLC0415 - its table takes longer to load than all of this

            text = unescape(text)
        if text == before:
            break
    return text


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else _ESCAPED.get(match[3], match[0])


def _comparable(text: str) -> str:
    lowered = text.lower()
    plain = lowered if len(lowered) == len(text) else text
    return plain if plain.isalnum() else plain.translate(_SPACES)


def _end_of_cut(secrets: list[str], text: str, start: int) -> int:
    """Return where an id ends that was cut off short, as a word of its own; 0 where it is another word."""
    end = start + _longest_common(secrets, text, start)
    is_word = not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum())
    return end if is_word and any(map(str.isdigit, text[start:end])) else 0


def _end_of_longest(secrets: list[str], text: str, start: int) -> int:
    """Return where the longest beginning of one of the sorted secrets ends that the text has at a place."""
    end = start + _longest_common(secrets, text, start)
    is_word = end - start >= _WORD_LIKE or not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum())
    return end if is_word else 0


def _longest_common(secrets: list[str], text: str, start: int) -> int:
    rest = text[start : start + MAX_CLEANED]
    place = bisect_left(secrets, rest)
    return max(_common_length(secret, rest) for secret in secrets[max(place - 1, 0) : place + 1])


def _common_length(one: str, other: str) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _hide(hidden: bytearray, start: int, end: int) -> None:
    hidden[start:end] = b"\1" * (end - start)


def _pieces(text: str, hidden: bytearray, end: int) -> list[str]:
    pieces: list[str] = []
    at = 0
    while at < end:
        start = hidden.find(1, at, end)
        if start < 0:
            pieces.append(text[at:end])
            break
        pieces += (text[at:start], "***")
        at = hidden.find(0, start)
        if at < 0:
            break
    return pieces


class _NoIds(logging.Filter):
    """httpx logs each request's whole URL, which holds the customer's id; during our calls it says the endpoint."""

    def filter(self, record: logging.LogRecord) -> bool:
        call = current_call.get()
        if call is not None:
            record.msg, record.args = f"HTTP Request: {call}", ()
        return True


class _NoHeaders(logging.Filter):
    """At DEBUG, HTTP/2's packer of headers logs all of them, the key and the path included; not during our calls."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - whatever the record says
        return current_call.get() is None


_GUARDED: Final[tuple[tuple[str, type[logging.Filter]], ...]] = (
    ("httpx", _NoIds),
    ("hpack.hpack", _NoHeaders),
    ("hpack.table", _NoHeaders),
)


def guard_logs() -> None:
    """Keep keys and customers' ids out of the log records of httpx and its parts. Doing it again changes nothing."""
    for name, guard in _GUARDED:
        logger = logging.getLogger(name)
        if not any(isinstance(one, guard) for one in logger.filters):
            logger.addFilter(guard())
