"""cli/terminal and cli/layout: commands in a real terminal, of any width, with colours where it has them."""

import errno
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

import pytest

from perkamo.cli.text import columns, count, wrap
from perkamo.sandbox import Sandbox
from tests.cli.conftest import COMMAND, Perkamo, variables

CODES = re.compile(r"\x1b\[[0-9;]*m")


def in_terminal(sandbox: Sandbox, *words: str, width: int = 80, **environment: str) -> tuple[int, str]:
    """Run a command in a terminal; returns its exit code and what it showed, codes included."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    given = {**variables(sandbox), "TERM": "xterm", "NO_COLOR": "", "COLUMNS": "", **environment}
    with subprocess.Popen([*COMMAND, *words], stdout=theirs, stderr=theirs, stdin=theirs, env=given) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError as end:  # how Linux tells it
            if end.errno != errno.EIO:
                raise
        os.close(ours)
        process.wait(30)
    return process.returncode, shown.decode().replace("\r\n", "\n")


def test_a_terminal_has_colours_that_change_nothing_else(sandbox: Sandbox, perkamo: Perkamo) -> None:
    """The same text as in a pipe, with codes around it; catches codes that count as columns."""
    words = ("emit", "customer_123", "purchase.completed", "amount=4500", "--transaction-id", "t1")
    shown = in_terminal(sandbox, *words)[1]
    sandbox.renew()

    piped = perkamo(*words).stdout

    assert CODES.sub("", shown) == piped
    assert "\x1b[32m+45 points\x1b[0m" in shown
    assert not CODES.search(piped)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}])
def test_colours_are_left_out_where_nobody_wants_them(sandbox: Sandbox, environment: dict[str, str]) -> None:
    """NO_COLOR, and terminals that have none; catches codes in the window of an editor."""
    code, shown = in_terminal(sandbox, "customer", "customer_123", width=80, **environment)

    assert (code, "\x1b" in shown) == (0, False)


def test_a_failure_stands_out_in_a_terminal(sandbox: Sandbox) -> None:
    """Its first words are red; catches an error that reads like a result."""
    code, shown = in_terminal(sandbox, "customer", "customer_123", PERKAMO_SECRET_KEY="sk_test_wrong")

    assert code == 1
    assert shown.startswith("\x1b[31mperkamo customer: \x1b[0mGET /v1/customer/{user_id}: 401 ")


@pytest.mark.stress
@pytest.mark.parametrize("width", [40, 60, 80])
def test_nothing_is_wider_than_the_terminal(sandbox: Sandbox, width: int) -> None:
    """Tables and lists are wrapped in their columns; catches lines that the terminal breaks anywhere."""
    for words in (["catalog"], ["program"], ["demo"], ["emit", "customer_123", "user.registered"]):
        code, shown = in_terminal(sandbox, *words, width=width)

        lines = CODES.sub("", shown).splitlines()
        assert (code, bool(lines)) == (0, True)
        assert [line for line in lines if len(line) > width] == [], words


CATALOG_71 = """\
EVENT                  EARNS                FROM CONTEXT   LABEL
user.registered        50 points                           Created an
                                                           account
purchase.completed     {{amount}} / 100     amount         Bought
                       points                              something
"""
CATALOG_60 = """\
event         user.registered
earns         50 points
from context
label         Created an account

event         purchase.completed
earns         {{amount}} / 100 points
from context  amount
label         Bought something
"""


@pytest.mark.parametrize(("width", "begin"), [(71, CATALOG_71), (60, CATALOG_60)])
def test_a_table_is_wrapped_and_then_becomes_a_list(sandbox: Sandbox, width: int, begin: str) -> None:
    """As long as the longest words fit side by side it stays a table; catches words that are cut."""
    code, shown = in_terminal(sandbox, "catalog", width=width, NO_COLOR="1")

    assert code == 0
    assert shown.startswith(begin)


def test_a_pipe_gets_whole_lines(perkamo: Perkamo) -> None:
    """Whoever reads them looks for lines; catches a width of the environment that breaks a grep."""
    narrow, wide = (perkamo("catalog", COLUMNS=columns).stdout for columns in ("40", ""))

    assert narrow == wide


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("one", 5, ["one"]),
        ("one two", 7, ["one two"]),
        ("one two", 6, ["one", "two"]),
        ("one  two", 6, ["one", "two"]),
        ("  one two", 6, ["  one", "two"]),
        ("longer than", 4, ["long", "er", "than"]),
        ("a longer", 4, ["a", "long", "er"]),
        ("\u4e2d\u6587\u5b57", 4, ["\u4e2d\u6587", "\u5b57"]),
    ],
)
def test_text_is_wrapped_by_columns(text: str, width: int, lines: list[str]) -> None:
    """At spaces, within words that are too long, and with wide characters as two; catches an endless loop."""
    assert wrap(text, width) == lines
    assert all(columns(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("value", "plural", "text"),
    [
        (0, "stars", "0 stars"),
        (1, "stars", "1 star"),
        (-1, "stars", "-1 star"),
        (0.1 + 0.2, "points", "0.3 points"),
        (1234567.875, "points", "1,234,567.875 points"),
        (1.5, "stars", "1.5 stars"),
        (12900, "points", "12,900 points"),
        (1, "xp", "1 xp"),
        (1, "bonus", "1 bonus"),
        (1, "class", "1 class"),
        (1, "pennies", "1 pennies"),
    ],
)
def test_one_is_singular_everywhere(value: float, plural: str, text: str) -> None:
    """One rule for lines, traits and wallets, whose keys may be any word; catches "1 stars" and "1 bonu"."""
    assert count(value, plural) == text
