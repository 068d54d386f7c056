"""The commands as processes at the sandbox."""

import os
import subprocess
import sys
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import TypeAlias

import pytest

from perkamo.sandbox import Sandbox

Perkamo: TypeAlias = "Callable[..., CompletedProcess[str]]"
"""Runs a command to its end: its words, and variables of the environment by name (empty ones are not set)."""


@pytest.fixture
def perkamo(sandbox: Sandbox) -> Perkamo:
    """Run a command with the sandbox's keys and address in its environment; warnings are errors."""
    at_sandbox = {
        "PERKAMO_SECRET_KEY": sandbox.api_key,
        "PERKAMO_BASE_URL": sandbox.base_url,
        "PERKAMO_BROWSER_KEY": sandbox.browser_key,
        "PYTHONUTF8": "1",
    }

    def run(*words: str, **environment: str) -> "CompletedProcess[str]":
        variables = {**os.environ, **at_sandbox, **environment}
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "perkamo", *words],
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
            env={name: value for name, value in variables.items() if value},
        )

    return run
