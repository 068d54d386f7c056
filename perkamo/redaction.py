"""What keeps keys, tokens and personal data out of texts that others may read: messages and log records."""

import logging
import re
from contextvars import ContextVar
from typing import Final
from urllib.parse import unquote

MAX_TEXT: Final = 200
MAX_CLEANED: Final = 4096
_SHOWN: Final = 1024
"""Characters of a foreign text that are looked at, and that may be shown: what begins among these ends within those."""
_MAX_SECRETS: Final = 20_000

_SHORTEST_SECRET: Final = 3
"""An id of one or two letters names nobody, and hiding it would make holes in every sentence."""
_WORD_LIKE: Final = 6
"""A shorter secret counts only where it stands as a word of its own."""
_HEAD: Final = 16
"""What begins with so many characters of a longer secret is a part of it: services cut off what they repeat."""

_ATOM = r"[^\s\x00-\x1f\x7f@\"'<>(),;:]"
_EMAIL = f"(?<!{_ATOM}){_ATOM}+@{_ATOM}+"
_KEY = r"\b[sp]k_[A-Za-z0-9_\-]+"
_JWT = r"\beyJ[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-.]+"
# Texts, which ``re`` compiles when an error first needs them, and keeps.
_SHAPES: Final = f"{_KEY}|{_JWT}|{_EMAIL}"
_UNPRINTABLE: Final = r"[^\x20-\x7e\xa0-\u200a\u2010-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd]+"
"""Also what separates lines, or turns the direction of what follows."""
_ESCAPE: Final = r"\\u([0-9a-fA-F]{4})"
_SPACES = str.maketrans("+\t\n\r\xa0", "     ")

current_call: ContextVar[str | None] = ContextVar("perkamo_call", default=None)
"""Method and endpoint, without ids, of the call that this task or thread is making."""


def clean(text: str, *secrets: str) -> str:
    """Return a foreign text fit for a message: one line, bounded, without the given secrets, keys or e-mail addresses.

    The work is linear in the number of secrets, and does not grow with the text.

    Args:
        text: What another party wrote, such as the ``message`` of an error answer. It may hold a secret in any case of
            letters, percent-encoded, with JSON's escapes, or cut off.
        secrets: Texts that must not appear, such as the ids that were in the request.
    """
    plain = _decoded(text[:MAX_CLEANED])
    if len(secrets) > _MAX_SECRETS:
        return "***"
    hidden = bytearray(len(plain))
    for match in re.finditer(_SHAPES, plain):
        _hide(hidden, match.start(), match.end())
    comparable = _comparable(plain)
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET and _comparable(secret[:_HEAD]).strip() in comparable:
            _hide_all(hidden, comparable, _comparable(secret).strip())
    end = len(plain) if len(text) <= MAX_CLEANED else _SHOWN
    shown = re.sub(_UNPRINTABLE, " ", "".join(_pieces(plain, hidden, end)))
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"


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
    """Undo percent-encoding, which may be there twice, and JSON's escapes."""
    for _ in range(3):
        if "%" not in text:
            break
        text = unquote(text)
    if "\\u" in text:
        text = re.sub(_ESCAPE, lambda match: chr(int(match[1], 16)), text)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _comparable(text: str) -> str:
    lowered = text.lower()
    return (lowered if len(lowered) == len(text) else text).translate(_SPACES)


def _hide_all(hidden: bytearray, text: str, secret: str) -> None:
    start = text.find(secret[:_HEAD])
    while start >= 0:
        end = start + min(len(secret), _HEAD)
        while end < len(text) and end - start < len(secret) and text[end] == secret[end - start]:
            end += 1
        if len(secret) >= _WORD_LIKE or not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()):
            _hide(hidden, start, end)
        start = text.find(secret[:_HEAD], start + 1)


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
