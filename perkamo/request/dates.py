"""Dates and waits as HTTP headers write them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Read a ``retry-after`` header.

    Args:
        text: The raw header: whole seconds of at most nine digits, or an HTTP date in one of its three forms.
        now: Unix seconds.

    Returns:
        Seconds to wait, never negative; None if it is absent or has another form.
    """
    if text is None:
        return None
    text = text.strip(" \t")
    if re.fullmatch(_SECONDS, text):
        return float(text)
    moment = parse_http_date(text, now)
    return None if moment is None else max(0.0, moment - now)


def parse_http_date(text: str, now: float) -> float | None:
    """Read an HTTP date as Unix seconds; None if it has none of the three forms of RFC 9110.

    Args:
        text: The raw date.
        now: Unix seconds, from which the century of a two-digit year follows.
    """
    match = next((found for form in _DATES if (found := re.fullmatch(form, text))), None)
    if match is None:
        return None
    year, month = int(match["year"]), _MONTHS.index(match["month"]) + 1
    if len(match["year"]) == 2:
        this_year = datetime.fromtimestamp(now, UTC).year
        year += this_year - this_year % 100
        year -= 100 if year > this_year + 50 else 0
    clock = timedelta(hours=int(match["hour"]), minutes=int(match["minute"]), seconds=int(match["second"]))
    if clock >= timedelta(days=1) or int(match["minute"]) > 59 or int(match["second"]) > 59:
        return None
    try:
        return (datetime(year, month, int(match["day"]), tzinfo=UTC) + clock).timestamp()
    except (ValueError, OverflowError):
        return None


# Not compiled here: ``re`` compiles and caches a pattern when an answer first needs it.
_SECONDS: Final = r"[0-9]{1,9}"
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH: Final = rf"(?P<month>{'|'.join(_MONTHS)})"
_CLOCK: Final = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES: Final = (
    rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT",
    rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT",
    rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} (?P<day>[ 0-9][0-9]) {_CLOCK} (?P<year>[0-9]{{4}})",
)
