"""The help of every command: whole, and true."""

import re
import shlex
from importlib.metadata import version

import pytest

from perkamo.cli.main import COMMANDS
from tests.cli.conftest import Perkamo


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_complete(name: str, here: Perkamo) -> None:
    """Description, examples and exit codes, and a text for each option; catches a command that explains nothing."""
    shown = here(name, "--help")

    assert (shown.returncode, shown.stderr) == (0, "")
    text = shown.stdout
    assert "\nexample:\n" in text
    assert "\nexit codes:\n" in text
    options = text.partition("\n\n")[2].partition("\nexample:\n")[0]
    entries = re.findall(r"^  (\S.*(?:\n {4,}.*)*)", options, flags=re.MULTILINE)
    assert entries
    assert not [entry for entry in entries if not re.search(r"\s{2,}\S", entry.strip())]


def test_the_version_is_the_packages(here: Perkamo) -> None:
    """What a report of a bug has to name; catches a version that is written down twice."""
    shown = here("--version")

    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"perkamo {version('perkamo')}\n", "")


def test_no_command_shows_the_commands(here: Perkamo) -> None:
    """Whoever does not know what to type sees it; catches a bare "the following arguments are required"."""
    shown = here()

    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == here("--help").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_commands_that_are_understood(name: str, here: Perkamo) -> None:
    """Each line parses as it is typed; catches an example with an option that is no more."""
    options, _, rest = here(name, "--help").stdout.partition("\nexample:\n")
    lines = [line for line in rest.partition("\n\n")[0].splitlines() if "perkamo " in line]

    assert lines
    for line in lines:
        typed = re.split(r"[|>)]", line[line.index(f"perkamo {name}") :], maxsplit=1)[0].removesuffix("- ")
        words = shlex.split(typed, comments=True)
        assert not [word for word in words if word.startswith("--") and word not in options], line
        unknown = here(*words[1:], "--no-such-option")
        assert "unrecognized" in unknown.stderr, line
        assert unknown.returncode == 2, line
