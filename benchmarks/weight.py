"""What an installation weighs: row 16, out of the metadata of what is installed here."""

import re
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import perkamo
from benchmarks.results import Row
from benchmarks.rounds import Effort
from benchmarks.server import CannedServer

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_MEGABYTE: Final = 1_000_000
_PEERS: Final = ("httpx", "openai", "stripe")


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Count packages and bytes, ours and the peers', without extras and without compiled files."""
    del server, effort
    packages, size = _weigh("perkamo")
    peers = {name: _weigh(name) for name in _PEERS if _found(name)}
    counts = ", ".join(f"{name} {count}" for name, (count, _) in peers.items())
    sizes = ", ".join(f"{name} {bytes_ / _MEGABYTE:.3g} MB" for name, (_, bytes_) in peers.items())
    return [
        Row("16", "installed packages, itself included", packages, "", target=9, absolute=counts),
        Row("16", "size of the installed files", size / _MEGABYTE, " MB", target=3, absolute=sizes),
    ]


def _weigh(name: str) -> tuple[int, int]:
    """Return the number of packages that a package brings, and their bytes."""
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        one = distribution(waiting.pop())
        if one.name.lower() not in found:
            found[one.name.lower()] = one
            waiting += [part for part in map(_required, one.requires or ()) if part]
    return len(found), sum(map(_bytes_of, found.values()))


def _required(requirement: str) -> str | None:
    """Return the name in a requirement; None for what is not installed, or comes with an extra only."""
    name = _NAME.match(requirement)
    if name is None or "extra ==" in requirement or not _found(name[0]):
        return None
    return name[0]


def _found(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _bytes_of(package: Distribution) -> int:
    files = [Path(str(one.locate())) for one in package.files or () if ".." not in one.parts]
    if package.name == "perkamo":  # installed as a link to this work tree
        files = [one for one in Path(perkamo.__file__).parent.rglob("*") if not one.name.startswith("codegen")]
    return sum(one.stat().st_size for one in files if one.is_file() and one.suffix != ".pyc")
