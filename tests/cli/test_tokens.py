"""``perkamo token``."""

import json
import re

import pytest

from perkamo.sandbox import Sandbox
from tests.cli.conftest import Perkamo


def test_a_token_stands_alone_on_stdout(sandbox: Sandbox, here: Perkamo) -> None:
    """So that ``$(perkamo token …)`` works; for how long it is good is told on stderr."""
    done = here("token", "customer_123", "--ttl", "60")

    token = sandbox.check_token(done.stdout.removesuffix("\n"), "browser")
    assert (token.user_id, done.returncode) == ("customer_123", 0)
    assert re.fullmatch(r"Valid for 60 s, until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\.\n", done.stderr)


@pytest.mark.parametrize(("words", "seconds"), [([], 120), (["--ttl", "30"], 30)])
def test_a_stream_token_is_one(sandbox: Sandbox, here: Perkamo, words: list[str], seconds: int) -> None:
    """``--stream`` asks for the other purpose, for 120 seconds when nothing is said."""
    done = here("token", "customer_123", "--stream", "--json", *words)

    answer = json.loads(done.stdout)
    assert sandbox.check_token(answer["token"], "stream").user_id == "customer_123"
    assert (answer["expires_in"], done.stderr, done.returncode) == (seconds, "", 0)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--ttl", "0"], 3, "ttl_seconds must be a whole number of seconds from 1 to 1800"),
        (["--ttl", "1801", "--stream"], 3, "ttl_seconds must be a whole number of seconds from 1 to 1800"),
        (["--ttl", "ten"], 2, "argument --ttl: it is a whole number of seconds"),
    ],
)
def test_a_bad_time_is_refused(here: Perkamo, words: list[str], code: int, reason: str) -> None:
    """What is no number is wrong usage; what the service would not take is refused."""
    done = here("token", "customer_123", *words)

    assert (done.stdout, done.returncode) == ("", code)
    assert reason in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("key", "code", "reason"),
    [
        ("", 1, "perkamo token: set PERKAMO_BROWSER_KEY to the public browser key, pk_….\n"),
        ("pk_test_another", 1, "403"),
        ("sk_test_swapped", 3, "browser_key is a server key, which must never reach a browser"),
    ],
)
def test_a_wrong_browser_key_is_explained(here: Perkamo, key: str, code: int, reason: str) -> None:
    """Missing, unknown, or the server key in its place; the key itself is not shown."""
    done = here("token", "customer_123", PERKAMO_BROWSER_KEY=key)

    assert (done.stdout, done.returncode, done.stderr.count("\n")) == ("", code, 1)
    assert reason in done.stderr
    assert not key or key not in done.stderr
