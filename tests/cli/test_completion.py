"""cli/completion: what real shells offer, given the script that the command writes for them."""

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from perkamo.cli.completion import SCRIPTS
from perkamo.cli.main import COMMANDS, command_parser, main

OFFERS = [
    ("perkamo em", ["emit"]),
    ("perkamo emit customer_123 --tr", ["--transaction-id"]),
    ("perkamo emit --json customer_123 a=1 --occ", ["--occurred-at"]),
    ("perkamo outbox re", ["relay", "requeue"]),
    ("perkamo outbox stats --un", ["--until-empty"]),
    ("perkamo outbox stats bo", ["box/"]),
    ("perkamo import ev", ["events.jsonl", "events 2.jsonl"]),
    ("perkamo import --rejected ev", ["events.jsonl", "events 2.jsonl"]),
    ("perkamo emit --context ev", []),
    ("perkamo customer ev", []),
    ("perkamo completion ", ["bash", "fish", "zsh"]),
]
"""What is typed, and what Tab offers."""


def needs(shell: str) -> pytest.MarkDecorator:
    """Skip where a shell is not installed."""
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The script for a shell, beside some files."""
    assert main(["completion", request.param]) == 0
    for name in ("events.jsonl", "events 2.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "box").mkdir()
    return capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS, indirect=True)
def test_every_command_and_option_is_in_the_script(script: str) -> None:
    """It is made from the parsers themselves; catches a command that somebody adds and nobody completes."""
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", script)
        for action in command_parser(name)._actions:
            for option in action.option_strings[-1:]:
                assert re.search(rf"(--|-l ){re.escape(option[2:])}\b", script), (name, option)


@needs("bash")
@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(("typed", "offers"), OFFERS)
def test_bash_completes(script: str, typed: str, offers: list[str], tmp_path: Path) -> None:
    """Commands, options, actions and files, and nothing where nobody can know; catches files in the place of an id."""
    words = typed.split(" ")
    line = f"{script}\nCOMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _perkamo\n"
    show = 'for one in "${COMPREPLY[@]}"; do [[ -d $one ]] && one+=/; printf "%s\\n" "$one"; done'

    done = subprocess.run(["bash", "-c", line + show], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert (sorted(done.stdout.splitlines()), done.stderr) == (sorted(offers), "")


@needs("fish")
@pytest.mark.parametrize("script", ["fish"], indirect=True)
@pytest.mark.parametrize(("typed", "offers"), OFFERS)
def test_fish_completes(script: str, typed: str, offers: list[str], tmp_path: Path) -> None:
    """The same as in bash; catches a condition that is true for another command."""
    (tmp_path / "perkamo.fish").write_text(script)
    line = f"source perkamo.fish; complete -C {shlex.quote(typed)}"

    done = subprocess.run(
        ["fish", "--no-config", "-c", line],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    found = [one.partition("\t")[0].replace("\\ ", " ") for one in done.stdout.splitlines()]
    assert (sorted(found), done.stderr) == (sorted(offers), "")


class Zsh:
    """An interactive zsh, which alone completes."""

    def __init__(self, directory: Path) -> None:
        self._terminal, theirs = pty.openpty()
        self._process = subprocess.Popen(
            ["zsh", "-f", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=directory,
            env={**os.environ, "PS1": "> ", "TERM": "dumb", "HOME": str(directory), "COLUMNS": "200"},
            start_new_session=True,
        )
        os.close(theirs)

    def show(self, typed: str, until: str) -> str:
        """Type something and wait for what shows that it was understood."""
        os.write(self._terminal, typed.encode())
        shown = ""
        deadline = time.monotonic() + 30
        while until not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([self._terminal], [], [], 0.1)[0]:
                shown += os.read(self._terminal, 65536).decode("utf-8", "replace")
        return shown

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@needs("zsh")
@pytest.mark.parametrize("script", ["zsh"], indirect=True)
@pytest.mark.parametrize("before", ["autoload -U compinit; compinit -u -D; ", ""], ids=["set up", "fresh"])
def test_zsh_completes(script: str, before: str, tmp_path: Path) -> None:
    """A command, an option, an action and a file, in an interactive shell; catches a script that compinit refuses.

    A shell that was not set up for completion is so then; catches "command not found: compdef" in every new terminal.
    """
    (tmp_path / "perkamo.zsh").write_text(script)
    zsh = Zsh(tmp_path)
    try:
        shown = zsh.show(f"{before}source ./perkamo.zsh; print re''ady\n", "ready\r\n")
        assert "not found" not in shown
        for typed, until in [
            ("perkamo emi", "perkamo emit "),
            ("perkamo emit customer_123 --trans", "--transaction-id "),
            ("perkamo outbox req", "requeue "),
            ("perkamo outbox stats bo", "box/"),
            ("perkamo import --rejected eve", "events"),
        ]:
            zsh.show(f"\x15{typed}\t", until)
    finally:
        zsh.close()
