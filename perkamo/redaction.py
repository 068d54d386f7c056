"""What keeps keys, tokens and personal data out of texts that others may read: messages and log records."""

import logging
import re
from contextvars import ContextVar
from typing import Final

MAX_TEXT: Final = 200
_SHORTEST_SECRET: Final = 3
"""An id of one or two letters names nobody, and hiding it would make holes in every sentence."""

_EMAIL = re.compile(r"[^\s@\"'<>(),;:]+@[^\s@\"'<>(),;:]+")
_KEY = re.compile(r"\b[sp]k_[A-Za-z0-9_\-]+")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd]+")

current_call: ContextVar[str | None] = ContextVar("perkamo_call", default=None)
"""Method and endpoint, without ids, of the call that this task or thread is making."""


def clean(text: str, *secrets: str) -> str:
    """Return a foreign text fit for a message: one line, bounded, without the given secrets, keys or e-mail addresses.

    Args:
        text: What another party wrote, such as the ``message`` of an error answer.
        secrets: Exact texts that must not appear, such as the ids that were in the request.
    """
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    text = _EMAIL.sub("***", _KEY.sub("***", _UNPRINTABLE.sub(" ", text[: 4 * MAX_TEXT])))
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


class _NoIds(logging.Filter):
    """httpx logs each request's whole URL, which holds the customer's id; during our calls it says the endpoint."""

    def filter(self, record: logging.LogRecord) -> bool:
        call = current_call.get()
        if call is not None:
            record.msg, record.args = f"HTTP Request: {call}", ()
        return True


def guard_httpx_logs() -> None:
    """Keep customers' ids out of httpx's own log records. Doing it again changes nothing."""
    logger = logging.getLogger("httpx")
    if not any(isinstance(one, _NoIds) for one in logger.filters):
        logger.addFilter(_NoIds())
