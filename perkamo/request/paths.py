"""Which paths may be sent: those that every server and gateway reads in the same way, and httpx sends unchanged."""

import re
from typing import Final
from urllib.parse import unquote

_CHARACTERS = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
"""The characters that RFC 3986 allows in a path. httpx would encode others, after the path was signed."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SEPARATORS = re.compile(r"[/\\]")
_DEEPEST: Final = 3
"""How many times a path may be percent-encoded; more is never intended."""


def path_problem(path: str) -> str | None:
    """Return why a path must not be sent, or None.

    Args:
        path: Segments, each after a slash; without a query.
    """
    if not _CHARACTERS.fullmatch(path):
        return "must be percent-encoded: letters, digits and -._~!$&'()*+,;=:@/ need no encoding"
    if not all(map(_is_plain, path.split("/")[1:])):
        return "must have no empty, . or .. segments, also none that is encoded or followed by a semicolon"
    return None


def _is_plain(segment: str) -> bool:
    """Return whether a segment is a name on every server, however often a server decodes it."""
    if not segment.partition(";")[0]:
        return False
    decoded = segment
    try:
        for _ in range(_DEEPEST):
            decoded = unquote(decoded, errors="strict")
    except UnicodeDecodeError:  # some decoders turn overlong sequences into dots and slashes
        return False
    names = {name.partition(";")[0] for name in _SEPARATORS.split(decoded)}
    return names.isdisjoint((".", "..")) and not _CONTROL.search(decoded) and unquote(decoded) == decoded
