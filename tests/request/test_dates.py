"""dates: what HTTP headers say about time, each form pinned."""

from datetime import UTC, datetime

import pytest

from perkamo.request.dates import parse_http_date, parse_retry_after

NOW = datetime(2026, 6, 1, 10, 0, 0, tzinfo=UTC).timestamp()

# Row F31: what a Retry-After header may say, and what is made of it.
RETRY_AFTER: list[tuple[str | None, float | None]] = [
    (None, None),
    ("0", 0.0),
    ("1", 1.0),
    ("120", 120.0),
    ("999999999", 999_999_999.0),
    ("9999999999", None),
    ("99999999999999999999", None),
    ("-1", None),
    ("+7", None),
    ("1.5", None),
    ("1e3", None),
    ("inf", None),
    ("nan", None),
    ("", None),
    (" ", None),
    (" 5 ", 5.0),
    ("\t5", 5.0),
    ("5;x", None),
    ("5, 6", None),
    ("1_0", None),
    ("\uff11\uff12", None),
    ("\u0663", None),
    ("0x10", None),
    ("\udcff", None),
    ("soon", None),
    ("Mon, 01 Jun 2026 10:01:00 GMT", 60.0),
    ("Mon, 01 Jun 2026 10:00:00 GMT", 0.0),
    ("Mon, 01 Jun 2026 09:00:00 GMT", 0.0),
    ("Tue, 01 Jun 2027 10:00:00 GMT", 365 * 86400.0),
    ("Mon, 01 Jun 2026 10:00:60 GMT", None),
    ("Mon, 01 Jun 2026 10:60:00 GMT", None),
    ("Mon, 01 Jun 2026 24:00:00 GMT", None),
    ("Mon, 31 Feb 2026 10:00:00 GMT", None),
    ("Mon, 01 Jun 99999 10:00:00 GMT", None),
    ("Mon, 01 Jun 0000 10:00:00 GMT", None),
    ("Mon, 01 Jun 2026 10:00:00", None),
    ("Mon, 01 Jun 2026 10:00:00 CET", None),
    ("Mon, 01 Jun 2026 10:00:00 +0000", None),
    ("Zun, 01 Jun 2026 10:00:00 GMT", None),
    ("Mon Jun  1 10:00:30 2026", 30.0),
    ("Mon Jun 01 10:00:30 2026", 30.0),
    ("Monday, 01-Jun-26 10:00:45 GMT", 45.0),
    ("Tuesday, 01-Jun-99 10:00:45 GMT", 0.0),
    ("2026-06-01T10:01:00Z", None),
]


@pytest.mark.parametrize(("text", "seconds"), RETRY_AFTER)
def test_retry_after_is_read_strictly(text: str | None, seconds: float | None) -> None:
    """What is not plain seconds or an HTTP date counts as absent; catches float(), int() and email.utils (row F31)."""
    assert parse_retry_after(text, NOW) == seconds


def test_a_two_digit_year_lies_within_fifty_years() -> None:
    """RFC 9110: a year that seems more than 50 years ahead is past; catches a fixed pivot."""
    years = {
        text: datetime.fromtimestamp(parse_http_date(f"Monday, 01-Jun-{text} 10:00:00 GMT", NOW) or 0, UTC).year
        for text in ("26", "76", "77", "99")
    }

    assert years == {"26": 2026, "76": 2076, "77": 1977, "99": 1999}


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@pytest.mark.parametrize("number", range(1, 13))
@pytest.mark.parametrize(
    "form", ["Mon, 02 {0} 2026 10:00:00 GMT", "Monday, 02-{0}-26 10:00:00 GMT", "Mon {0}  2 10:00:00 2026"]
)
def test_every_month_is_known_in_every_form(form: str, number: int) -> None:
    """Catches a month that is misspelt, so that a wait in March counts as none."""
    moment = datetime(2026, number, 2, 10, tzinfo=UTC).timestamp()

    assert parse_http_date(form.format(MONTHS[number - 1]), NOW) == moment
