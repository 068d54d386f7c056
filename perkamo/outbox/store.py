"""What a store of waiting events does for a relay, and the values that go between them.

A store knows no client and no HTTP; a relay knows no SQL. Every event that is taken is *leased*: no other relay takes
it until the lease ends, and whoever settles it shows the token of the lease. What was leased to others meanwhile is
theirs: what a former holder says changes nothing.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Final, Protocol, cast

from attrs import define, evolve, field, frozen

from perkamo.encoding.serializable import Serializable
from perkamo.errors import PerkamoConfigurationError

UNBOUND: Final = ""
"""The Space of events that were put before the service had accepted a key."""
KEY_PREFIX: Final = "key:"
"""How the Spaces begin that are derived from the client's key; all others were named by the user."""

UNCOUNTED: Final = 1 << 62
"""Stands for the number of events that wait where counting them would take too long just now."""


@frozen
class SpaceStats(Serializable):
    """How delivery of one Space stands.

    Attributes:
        space: Its name; ``""`` for events put before the service had accepted a key, ``key:…`` for one without a name.
        pending: Events that wait.
        oldest_age: Seconds since the oldest of them was put; None where nothing waits.
        last_delivery: When the service last answered for an event, or None.
        delivered_last_minute: Events that it answered for within the last 60 seconds.
        last_error: Why a relay could deliver nothing when it last could not, or None; it may have passed since.
        last_error_at: When that was, or None.
        paused: Why everything waits at the moment, or None while events pass.
        paused_until: When a relay tries again; None where it is due, or where nothing is paused.
    """

    space: str
    pending: int
    oldest_age: float | None
    last_delivery: datetime | None
    delivered_last_minute: int
    last_error: str | None
    last_error_at: datetime | None
    paused: str | None
    paused_until: datetime | None


@frozen
class OutboxStats(Serializable):
    """The outcome of every event that was ever put; ``accepted`` is the sum of the next four.

    Attributes:
        accepted: Events taken.
        delivered: Events the service answered for.
        pending: Events that wait.
        dead: Events the service refused, kept with the reason.
        missing: Events that waited or were dead when something outside deleted, truncated or overwrote their file.
        size: Bytes of the events that wait or are dead.
        files: Database files in use: 1, and more only for as long as one that was damaged from outside is read out.
        set_aside: Damaged or foreign files that were moved out of the way, for you to look at.
        oldest_age: Seconds since the oldest event that waits was put; None where nothing waits.
        last_delivery: When the service last answered for an event, or None.
        delivered_last_minute: Events that it answered for within the last 60 seconds.
        last_error: Why a relay could deliver nothing when it last could not, or None; it may have passed since.
        paused: Why everything of a Space waits at the moment, or None while events pass.
        paused_until: When a relay tries again; None where it is due, or where nothing is paused.
        spaces: The same for each Space.
    """

    accepted: int
    delivered: int
    pending: int
    dead: int
    missing: int
    size: int
    files: int
    set_aside: int
    oldest_age: float | None = None
    last_delivery: datetime | None = None
    delivered_last_minute: int = 0
    last_error: str | None = None
    paused: str | None = None
    paused_until: datetime | None = None
    spaces: tuple[SpaceStats, ...] = ()

    def with_spaces(self, spaces: Sequence[SpaceStats]) -> "OutboxStats":
        """Return the counts with how each Space stands, and how all of them do."""
        failed = max((one for one in spaces if one.last_error_at), key=_failed_at, default=None)
        paused = next((one for one in spaces if one.paused is not None), None)
        return evolve(
            self,
            oldest_age=max((one.oldest_age for one in spaces if one.oldest_age is not None), default=None),
            last_delivery=max((one.last_delivery for one in spaces if one.last_delivery), default=None),
            delivered_last_minute=sum(one.delivered_last_minute for one in spaces),
            last_error=None if failed is None else failed.last_error,
            paused=None if paused is None else paused.paused,
            paused_until=None if paused is None else paused.paused_until,
            spaces=tuple(spaces),
        )


def _failed_at(space: SpaceStats) -> float:
    return 0.0 if space.last_error_at is None else space.last_error_at.timestamp()


@frozen
class DeadLetter(Serializable):
    """An event that the service refused.

    Attributes:
        transaction_id: The event's transaction id.
        body: The event's bytes, as they were sent; ``Event.from_bytes`` reads them.
        reason: Why it was refused.
        row: Where it is in its store; ``Store.dead`` continues from there.
    """

    transaction_id: str = field(repr=False)
    body: bytes = field(repr=False)
    reason: str
    row: int = field(default=0, eq=False, repr=False)


@frozen
class WaitingEvent(Serializable):
    """An event that waits, or is on its way.

    Attributes:
        transaction_id: The event's transaction id.
        body: The event's bytes; ``Event.from_bytes`` reads them.
        space: The Space that it waits for. Its ``SpaceStats`` say whether all of it waits, and why.
        put_at: When it was put.
        failures: How many requests with it failed, as its relays counted.
        row: Where it is in its store; ``Store.waiting`` continues from there.
    """

    transaction_id: str = field(repr=False)
    body: bytes = field(repr=False)
    space: str
    put_at: datetime
    failures: int
    row: int = field(default=0, eq=False, repr=False)


@define(repr=False)  # frozen would double the time to make one
class StoredEvent:
    """An event that is leased.

    Attributes:
        row: Its number in the store.
        transaction_id: Its transaction id.
        body: Its bytes, as they were put.
        failures: How many requests with it failed, as its relays counted.
        is_damaged: Whether these are not the bytes that were put, so that they must not be sent.
        trace_context: The trace context of the code that put it, or None.
    """

    row: int
    transaction_id: str
    body: bytes
    failures: int = 0
    is_damaged: bool = False
    trace_context: str | None = None


@frozen
class Lease:
    """What one ``take`` returned.

    Attributes:
        token: Stands for this very lease.
        events: The events, oldest first.
        wait: Without events: seconds after which looking again is worth while; None where nothing waits.
        waiting: Without events: how many events of these Spaces wait nevertheless, leased or put off; or ``UNCOUNTED``.
        others_wait: Without events: whether events wait for other Spaces.
        stands_back: Without events: the one of those put off that has stood back longest, without its bytes; or None.
    """

    token: int = 0
    events: Sequence[StoredEvent] = ()
    wait: float | None = None
    waiting: int = 0
    others_wait: bool = False
    stands_back: StoredEvent | None = None


@frozen
class Settlement:
    """The outcome of leased events. Those that it does not name stay leased.

    Attributes:
        space: The Space that they were sent to.
        accepted: Whether the service accepted its key, so that events that belonged to none yet are bound to it.
        delivered: The service answered for these.
        dead: These will never be accepted, each with the reason.
        later: These go on waiting, each with its number of failures and the seconds for which nobody takes it.
        stands_back: Whether these wait only so that others go first, and may be taken when none is left that could.
        due: Whether leased or not, these need not wait any longer of those that an earlier settlement told to, unless
            somebody took one or counted another failure of it since.
        pause: Seconds for which the service wants no request from anybody; 0 for none.
        error: Why events wait, for the statistics; None while they pass.
        retry_in: With an error: seconds until this relay tries again.
    """

    space: str
    accepted: bool = False
    delivered: Sequence[StoredEvent] = ()
    dead: Sequence[tuple[StoredEvent, str]] = ()
    later: Sequence[tuple[StoredEvent, int, float]] = ()
    stands_back: bool = False
    due: Sequence[StoredEvent] = ()
    pause: float = 0.0
    error: str | None = None
    retry_in: float = 0.0


class Changes(Protocol):
    """Tells when there may be more to take."""

    async def wait(self, seconds: float) -> None:
        """Return when something changed since the last return, and no later than after this many seconds."""
        ...

    def notify(self) -> None:
        """Let who waits go on, as if something had changed."""
        ...


class Store(Protocol):
    """What the relay, the dead letters and the statistics ask for. A Space is named by a text, see ``relay.py``."""

    async def take(self, spaces: Sequence[str], sizes: Sequence[int], max_bytes: int, seconds: float) -> Lease:
        """Lease the oldest events that wait for these Spaces, or for none yet, and that nobody has leased or put off.

        Args:
            spaces: The Spaces, of which the first is this relay's own.
            sizes: The most events that are taken together, by their number of failures; the last one stands for all
                further ones. Events of different sizes are not mixed.
            max_bytes: The most bytes, but one event is taken in any case.
            seconds: How long the lease lasts.
        """
        ...

    async def settle(self, lease: Lease, settlement: Settlement) -> None:
        """Note the outcome of leased events; what was leased to others meanwhile is left alone."""
        ...

    async def count(self) -> OutboxStats:
        """Count the outcome of the events, and tell how each Space stands."""
        ...

    async def waiting(self, after: int, limit: int) -> Sequence[WaitingEvent]:
        """Return events that wait or are leased, oldest first, from behind this row on."""
        ...

    async def dead(self, after: int, limit: int) -> Sequence[DeadLetter]:
        """Return dead letters, oldest first, from behind this row on."""
        ...

    async def requeue(self, transaction_id: str | None) -> int:
        """Let one dead letter wait again, or all of them, and return how many did."""
        ...

    async def rebind(self, space: str, former: str | None) -> int:
        """Let what waits for a former Space, or for any other that is not a name, wait for this one; count it."""
        ...

    def watch(self) -> AbstractContextManager[Changes]:
        """Watch for changes, by this process or another, for as long as the block lasts."""
        ...

    async def aclose(self) -> None:
        """Finish what was asked for and let go of leases, files and connections."""
        ...


def check_space(name: str) -> str:
    """Return the name of a Space as it was given.

    Raises:
        PerkamoConfigurationError: It can't be one.
    """
    if not isinstance(cast("object", name), str) or not 0 < len(name) <= 100 or not name.isprintable():
        raise PerkamoConfigurationError("space must be printable text of 1 to 100 characters, or None.")
    if name.startswith(KEY_PREFIX):
        raise PerkamoConfigurationError(f"space must not begin with {KEY_PREFIX!r}, as Spaces without a name do.")
    return name
