"""Ids: of customers, of transactions, and the keys of events; what one may be, and how a transaction's is made."""

import re
from hashlib import sha256
from typing import Final, cast
from uuid import uuid4

from perkamo.encoding.encode import utf16_length
from perkamo.errors import PerkamoValidationError

MAX_USER_ID_LENGTH: Final = 256
MAX_EVENT_LENGTH: Final = 128
MAX_TRANSACTION_ID_LENGTH: Final = 256

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def create_transaction_id(prefix: str = "tx") -> str:
    """Make a transaction id that no other event has: the prefix, an underscore and a random UUID.

    Args:
        prefix: Text before the underscore, 1 to 219 characters, so that the whole stays within 256.

    Raises:
        PerkamoValidationError: The prefix is empty, too long, or holds control characters.
    """
    check_id(prefix, "prefix", MAX_TRANSACTION_ID_LENGTH - 37)
    return f"{prefix}_{uuid4()}"


def transaction_id_of_line(line: bytes) -> str:
    """Make the id of an event in a file that has none: the same id for the same line, which counts once.

    Args:
        line: The line, without white space around it.
    """
    return f"line_{sha256(line).hexdigest()[:32]}"


def check_id(value: object, name: str, max_length: int) -> str:
    """Return an id exactly as given, or refuse it: not text, blank, too long, or with characters no id can have.

    Args:
        value: What the caller gave.
        name: The field's name, for the error.
        max_length: The most UTF-16 code units.

    Raises:
        PerkamoValidationError: The value is not a valid id.
    """
    if type(value) is str and len(value) <= max_length and value.isascii() and value.isprintable() and value.strip():
        return value  # as nearly all are
    if not isinstance(value, str):
        raise refusal(name, f"must be text, not {type(value).__name__}; convert it yourself, so that it stays the same")
    text = str.__str__(value) if type(value) is str else str.__str__(cast("str", getattr(value, "value", value)))
    if not text or text.isspace():
        raise refusal(name, "must not be blank")
    if utf16_length(text) > max_length:
        raise refusal(name, f"must be at most {max_length} characters (UTF-16 code units)")
    if _CONTROL.search(text):
        raise refusal(name, "must not contain control characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refusal(name, "must not contain lone surrogates") from None
    return text


def refusal(name: str, reason: str) -> PerkamoValidationError:
    """Make the error for one field that can't be sent."""
    return PerkamoValidationError(f"{name} {reason}. Nothing was sent.", field=name)
