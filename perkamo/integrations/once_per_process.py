"""What an application has one of in each process, made at its first use."""

from collections.abc import Callable
from typing import Generic, TypeVar

from perkamo.runtime.forks import ForkGuard

T = TypeVar("T")


class OncePerProcess(Generic[T]):
    """Makes a value when it is first asked for; from then on it is the same one, in any thread and forked child."""

    def __init__(self, make: Callable[[], T]) -> None:
        """Keep what makes the value."""
        self._make = make
        self._made: list[T] = []
        self._guard = ForkGuard()  # a child must not inherit a lock that is held

    def get(self) -> T:
        """Return the value."""
        with self._guard:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]

    def take(self) -> T | None:
        """Return the value if it was made, and forget it, so that the next one who asks gets another."""
        with self._guard:
            return self._made.pop() if self._made else None


class Proxy(Generic[T]):
    """Stands for a value that is looked up again each time, so that it can be imported before there is one."""

    __slots__ = ("_kind", "_look_up")

    def __init__(self, kind: type[T], look_up: Callable[[], T]) -> None:
        """Prepare.

        Args:
            kind: The class of the value, which this claims to be of.
            look_up: Returns the value.
        """
        self._kind = kind
        self._look_up = look_up

    @property  # type: ignore[misc]
    def __class__(self) -> type[T]:  # type: ignore[override]
        return self._kind

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # tools look for these in whatever a module holds, set up or not
            raise AttributeError(name)
        return getattr(self._look_up(), name)

    def __repr__(self) -> str:
        return f"<the process's {self._kind.__name__}>"
