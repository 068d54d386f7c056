"""perkamo: the public names, and what importing them costs."""

import subprocess
import sys

import pytest

import perkamo


def run_python(code: str) -> str:
    """Run code in a fresh interpreter, with warnings as errors, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_perkamo_loads_no_heavy_module() -> None:
    """httpx, cattrs, attrs and event loops wait until a client is built; catches an eager import in __init__."""
    code = (
        "import sys, perkamo; print([m for m in ('httpx', 'asyncio', 'cattrs', 'anyio', 'attr') if m in sys.modules])"
    )

    assert run_python(code) == "[]"


def test_importing_the_client_loads_what_every_call_needs_and_no_more() -> None:
    """Expect no event loop, no h11, no cattrs and no database; catches an import that costs every program."""
    costly = ("asyncio", "trio", "h11", "cattrs", "httpcore", "sqlite3", "subprocess", "urllib3")
    code = f"import sys; from perkamo import AsyncPerkamoClient; print([m for m in {costly} if m in sys.modules])"

    assert run_python(code) == "[]"


def test_every_public_name_is_there_and_listed() -> None:
    """``__all__``, ``dir`` and the lazy table agree; catches a name that fails at first use."""
    assert dir(perkamo) == sorted(perkamo.__all__)
    assert all(getattr(perkamo, name) is not None for name in perkamo.__all__)
    assert run_python("from perkamo import *; print(AsyncPerkamoClient.__name__)") == "AsyncPerkamoClient"


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A typing mistake reads as usual; catches a KeyError out of the lazy table."""
    with pytest.raises(AttributeError, match="has no attribute 'Nope'"):
        _ = perkamo.Nope  # type: ignore[attr-defined]  # the mistake under test
