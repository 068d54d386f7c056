"""The commands as processes at the sandbox."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO, TypeAlias

import pytest

from perkamo.cli.main import main
from perkamo.sandbox import Sandbox

Perkamo: TypeAlias = "Callable[..., CompletedProcess[str]]"
"""Runs a command to its end: its words, and variables of the environment by name (empty ones are not set)."""


COMMAND = (sys.executable, "-W", "error", "-m", "perkamo")
"""What runs the command line; warnings are errors."""


def variables(sandbox: Sandbox) -> dict[str, str]:
    """The environment of a command at the sandbox."""
    return {
        **os.environ,
        "PERKAMO_SECRET_KEY": sandbox.api_key,
        "PERKAMO_BASE_URL": sandbox.base_url,
        "PERKAMO_BROWSER_KEY": sandbox.browser_key,
        "PYTHONUTF8": "1",
    }


@pytest.fixture
def perkamo(sandbox: Sandbox) -> Perkamo:
    """Run a command with the sandbox's keys and address in its environment."""

    def run(*words: str, stdin: IO[str] | None = None, **environment: str) -> "CompletedProcess[str]":
        given = {**variables(sandbox), **environment}
        return subprocess.run(
            [*COMMAND, *words],
            stdin=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
            env={name: value for name, value in given.items() if value},
        )

    return run


@pytest.fixture
def here(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Perkamo:
    """Run a command like ``perkamo``, but in this process: for tests of what is said, of which there are many."""

    def run(*words: str, **environment: str) -> "CompletedProcess[str]":
        for name, value in {**variables(sandbox), **environment}.items():
            if value:
                monkeypatch.setenv(name, value)
            else:
                monkeypatch.delenv(name, raising=False)
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, out, err)

    return run


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> Path:
    """Run in a directory of its own, in this process, at the sandbox."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERKAMO_SECRET_KEY", sandbox.api_key)
    monkeypatch.setenv("PERKAMO_BASE_URL", sandbox.base_url)
    return tmp_path
