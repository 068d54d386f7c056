"""The connections of one transport in one event loop: limited in number, first come, first served.

A connection is taken from a stack, used by one call alone, and put back only after its answer was read to the end.
Otherwise it is closed. Taking, putting back and closing are plain statements between two awaits, so a cancelled call
costs its own connection and nothing else.
"""

import ssl
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

import anyio
import httpx
from attrs import frozen

from perkamo.runtime.clock import Clock
from perkamo.transport.connect import Connector
from perkamo.transport.deadlines import FOREVER, Timeouts
from perkamo.transport.http1 import HTTP1Connection, Origin
from perkamo.transport.sockets import reason


class ConnectionsClosedError(httpx.TransportError):
    """The transport was closed before or during the call."""


@frozen
class Limits:
    """The limits of a pool.

    Attributes:
        connections: The most connections at a time; further calls wait, first come, first served.
        idle: Seconds after which an idle connection is no longer used.
        age: Seconds after which no connection is used for a further call.
    """

    connections: int
    idle: float
    age: float


@frozen
class Usage:
    """How a pool's places are used; those of calls that are still connecting are not counted.

    Attributes:
        free: Places that nobody holds.
        busy: Connections in use.
        idle: Connections that wait for a call.
        waiting: Calls that wait for a place.
    """

    free: int
    busy: int
    idle: int
    waiting: int


class Pool:
    """The connections of one event loop in one process. No change of its state contains an await.

    A call holds a place from ``take`` to ``put_back`` or ``drop``. An idle connection holds one too.

    Args:
        connector: Opens connections.
        limits: The limits of this pool.
        clock: The clock of idle times, ages and deadlines.
    """

    def __init__(self, connector: Connector, limits: Limits, clock: Clock = Clock()) -> None:
        self._connector = connector
        self._limits = limits
        self._clock = clock
        self._free = limits.connections
        self._closed = False
        self._busy: set[HTTP1Connection] = set()
        self._idle: dict[Origin, deque[HTTP1Connection]] = {}
        self._waiting: OrderedDict[_Waiter, None] = OrderedDict()
        self._doubts: Counter[Origin] = Counter()

    def __del__(
        self,
        is_late: Callable[[], bool] = sys.is_finalizing,  # both taken now: at the interpreter's end names are gone
        suppress: Callable[..., AbstractContextManager[None, bool]] = suppress,
    ) -> None:
        if not is_late():
            with suppress(TypeError, AttributeError):  # those gone; the sockets then close by themselves
                self.close_sockets()  # the event loop watches them, and would keep them open

    @property
    def usage(self) -> Usage:
        """How the places are used at this moment."""
        idle = sum(map(len, self._idle.values()))
        return Usage(free=self._free, busy=len(self._busy), idle=idle, waiting=len(self._waiting))

    async def take(self, origin: Origin, deadline: float) -> HTTP1Connection | None:
        """Get a place, with an idle connection if there is one; wait for it when all are taken.

        Raises:
            httpx.PoolTimeout: No place became free in time.
            ConnectionsClosedError: The pool is closed.
        """
        self._check_open()
        if not self._waiting:
            connection = self._most_recent(origin)
            if connection is not None:
                return connection
            if self._free or self._evict():
                self._free -= 1
                return None
        return await self._queue(origin, deadline)

    async def open(self, origin: Origin, deadline: float) -> HTTP1Connection:
        """Connect, on a place that is held already.

        Raises:
            httpx.ConnectTimeout: Connecting took too long.
            httpx.ConnectError: Connecting failed.
            httpx.ProxyError: The proxy refused.
        """
        try:
            with anyio.fail_after(self._seconds(deadline)):
                stream = await self._connector.connect(origin)
        except TimeoutError:
            problem: httpx.TransportError = httpx.ConnectTimeout("connecting took too long")
        except OSError as error:
            problem = httpx.ConnectError(reason(error))
            problem.__cause__ = error.with_traceback(None) if isinstance(error, ssl.SSLError) else None
        else:
            connection = HTTP1Connection(origin, stream, self._clock.now() + self._limits.age)
            self._busy.add(connection)
            if self._closed:
                connection.close()
            return connection
        raise problem

    def finish(self, connection: HTTP1Connection) -> None:
        """Give back a place after an answer was read whole, and keep the connection if it can serve another call."""
        keep_alive = connection.renew()
        if keep_alive is None:
            self.drop(connection)
        else:
            self.put_back(connection, keep_alive)

    def put_back(self, connection: HTTP1Connection, keep_alive: float) -> None:
        """Give back a place whose connection is ready for another exchange; the server waits this long for it."""
        now = connection.idle_since = self._clock.now()
        connection.good_until = min(connection.aged, now + min(self._limits.idle, keep_alive))
        self._hand_on(connection, now)

    def drop(self, connection: HTTP1Connection | None, *, failed: bool = False) -> None:
        """Give back a place; close its connection, if there is one.

        Args:
            connection: The connection, or None where there is none yet.
            failed: Whether it failed in use. If it had been idle before, the same cause (a firewall, a dead peer) has
                probably ended all connections that were idle at the time, so these are closed, too.
        """
        if connection is not None:
            self._busy.discard(connection)
            connection.close()
            idle = self._idle.get(connection.origin) if failed else None
            while idle and idle[0].idle_since <= connection.taken_at:
                self.drop(idle.popleft())
        if self._grant() is None:
            self._free += 1

    def doubt(self, connection: HTTP1Connection | None) -> None:
        """Record that a call on a connection that had been idle was given up before any byte of the answer came.

        Its caller may just have been impatient, so older connections are kept. But they may all be dead, and impatient
        callers would meet them one by one. So for each such call, the next call opens a new connection.
        """
        if connection is not None and connection.taken_at:
            self._doubts[connection.origin] += 1

    def close(self) -> None:
        """Close all connections; calls that are under way or waiting end with an error."""
        self.close_sockets()
        for waiter in self._waiting:
            waiter.turn.set()
        self._waiting.clear()
        self._connector.close()

    def close_sockets(self) -> None:
        """Close all sockets of an event loop that has ended, in which nothing waits any more."""
        self._closed = True
        for connection in (*self._busy, *(one for idle in self._idle.values() for one in idle)):
            connection.close()
        self._idle.clear()

    def timeouts(self, extensions: Mapping[str, Any]) -> Timeouts:
        """Return the time limits of an exchange that begins now, from the extensions of its request."""
        return Timeouts(extensions, self._clock)

    def _hand_on(self, connection: HTTP1Connection, now: float) -> None:
        if self._closed or connection.good_until <= now:
            return self.drop(connection)
        self._busy.discard(connection)
        waiter = self._grant()
        if waiter is None:
            idle = self._idle.get(connection.origin)
            if idle is None:
                idle = self._idle[connection.origin] = deque()
            idle.append(connection)
        elif waiter.origin == connection.origin:
            waiter.connection = connection
        else:
            connection.close()
        return None

    def _most_recent(self, origin: Origin) -> HTTP1Connection | None:
        idle = self._idle.get(origin)
        if not idle:
            self._doubts.pop(origin, None)
            return None
        if self._doubts.get(origin):
            self._doubts[origin] -= 1
            return None
        now = self._clock.now()
        while idle and idle[0].good_until <= now:
            self.drop(idle.popleft())
        while idle:
            connection = idle.pop()
            if connection.good_until > now and connection.is_idle():
                connection.taken_at = now
                self._busy.add(connection)
                return connection
            self.drop(connection)
        return None

    def _evict(self) -> bool:
        """Free the place of the connection that was idle longest: another service's, or a doubtful one of the same."""
        longest = min((idle for idle in self._idle.values() if idle), key=lambda idle: idle[0].idle_since, default=None)
        if longest is None:
            return False
        self.drop(longest.popleft())
        return True

    async def _queue(self, origin: Origin, deadline: float) -> HTTP1Connection | None:
        waiter = _Waiter(origin)
        self._waiting[waiter] = None
        try:
            if deadline == FOREVER:
                await waiter.turn.wait()
            else:
                with anyio.move_on_after(self._seconds(deadline)):
                    await waiter.turn.wait()
        except BaseException:
            self._withdraw(waiter)
            raise
        if self._closed or not waiter.granted:
            self._withdraw(waiter)
            self._check_open()
            raise httpx.PoolTimeout("no connection became free in time")
        connection = waiter.connection
        if connection is not None and not connection.is_idle():
            connection.close()
            return None
        if connection is not None:
            connection.taken_at = self._clock.now()
            self._busy.add(connection)
        return connection

    def _grant(self) -> "_Waiter | None":
        """Pass a place to the call that has waited longest."""
        if not self._waiting:
            return None
        waiter, _ = self._waiting.popitem(last=False)
        waiter.granted = True
        waiter.turn.set()
        return waiter

    def _withdraw(self, waiter: "_Waiter") -> None:
        """Stop waiting; a place that was granted meanwhile goes to the next call."""
        self._waiting.pop(waiter, None)
        if waiter.connection is not None:
            self._hand_on(waiter.connection, self._clock.now())
        elif waiter.granted:
            self.drop(None)

    def _seconds(self, deadline: float) -> float | None:
        return None if deadline == FOREVER else deadline - self._clock.now()

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionsClosedError("the client was closed")


class _Waiter:
    """A call that waits for a place, or for a connection that becomes free."""

    __slots__ = ("connection", "granted", "origin", "turn")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.turn = anyio.Event()
        self.granted = False
        self.connection: HTTP1Connection | None = None
