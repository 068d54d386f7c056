"""One key and one e-mail address that must never be seen: the whole suite is searched for them."""

import logging
import re
import traceback
import types
from pathlib import Path
from typing import Final

import perkamo

CANARY_KEY: Final = "sk_test_canary_7d1f0c52b9"
CANARY_EMAIL: Final = "canary.5e0d1@example.com"
_HIDDEN: Final = re.compile(
    "|".join(re.escape(text) for text in (CANARY_KEY, CANARY_EMAIL, CANARY_EMAIL.replace("@", "%40")))
)


PACKAGE = str(Path(perkamo.__file__).parent)
"""Where the frames are that must show nothing."""

TESTS = str(Path(__file__).parent)
"""Where those are that know the canary."""


def find_canary(text: str) -> str | None:
    """Return what of the canary stands in a text, or None."""
    match = _HIDDEN.search(text)
    return None if match is None else match[0]


def frames(error: BaseException | None) -> list[str]:
    """Everything a crash reporter would show: texts, reprs of locals, causes and contexts, notes included."""
    found: list[str] = []
    while error is not None:
        found.extend(traceback.format_exception_only(error))
        found.append(repr(error))
        found.extend(repr(value) for value in vars(error).values() if not isinstance(value, dict | str))
        found.extend(_locals(error.__traceback__))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def _locals(tb: types.TracebackType | None) -> list[str]:
    texts: list[str] = []
    while tb is not None:
        if not tb.tb_frame.f_code.co_filename.startswith(TESTS):
            texts.extend(
                f"{tb.tb_frame.f_code.co_name}:{name}={value!r}" for name, value in tb.tb_frame.f_locals.items()
            )
        tb = tb.tb_next
    return texts


class CanaryHandler(logging.Handler):
    """Listens to every logger at DEBUG and keeps the records that show a canary."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at the text and at everything that hangs on the record."""
        for text in (record.getMessage(), repr(record.__dict__)):
            if find_canary(text):
                self.seen.append(f"{record.name}: {record.msg!r}")
                return
