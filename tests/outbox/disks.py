"""Disks of a few megabytes, where this machine lets a test mount one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

Kind = Literal["tmpfs", "ext4"]
_TOOLS: Final = {"tmpfs": ["mount", "umount"], "ext4": ["mount", "umount", "mkfs.ext4"]}


@contextmanager
def small_disk(path: Path, megabytes: int, kind: Kind = "tmpfs") -> Iterator[bool]:
    """Make a directory and mount a small file system on it; tell whether that was allowed here."""
    path.mkdir()
    is_mounted = os.geteuid() == 0 and all(map(shutil.which, _TOOLS[kind])) and _mount(path, megabytes, kind)
    if is_mounted:
        path.chmod(0o700)
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Write until the last byte of a small disk is used; return the file that fills it."""
    assert disk.is_mount(), "somebody unmounted it: this would fill the machine's own disk"
    hog = disk / "hog"
    with hog.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while stream.write(bytes(size)) == size:
                    pass
    return hog


def _mount(path: Path, megabytes: int, kind: Kind) -> bool:
    if kind == "tmpfs":
        return _runs("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path))
    image = path.with_suffix(".img")
    with image.open("wb") as stream:
        stream.truncate(megabytes << 20)
    return _runs("mkfs.ext4", "-q", str(image)) and _runs("mount", "-o", "loop", str(image), str(path))


def _runs(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
