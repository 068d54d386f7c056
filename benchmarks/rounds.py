"""Interleaved rounds: every way is measured once a round, in shuffled order; only ratios within a round are compared.

So whatever else the machine does falls on all ways alike. What is measured is the processor time of this process.
"""

import asyncio
import gc
import random
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from attrs import frozen

from benchmarks.server import CannedServer

Way = Callable[[], float]
"""Does its work once and returns what one operation cost, in seconds."""

Operation = Callable[[], Awaitable[object]]
Clock = Callable[[], float]

_SEED: Final = 20260601


@frozen
class Effort:
    """How long to measure.

    Attributes:
        rounds: How many rounds; 5 or more for figures worth keeping.
        share: Which part of the usual number of operations each way makes.
    """

    rounds: int = 7
    share: float = 1.0

    def times(self, count: int) -> int:
        """Scale a usual number of operations."""
        return max(1, round(count * self.share))


@frozen
class Series:
    """What each way cost, round by round.

    Attributes:
        seconds: For each way its cost in every round, in seconds for one operation.
        idle: For each way the median share of the time in which the server's process did nothing; empty without one.
    """

    seconds: Mapping[str, Sequence[float]]
    idle: Mapping[str, float]

    def ratios(self, way: str, base: str) -> tuple[float, ...]:
        """Compare two ways within each round."""
        return tuple(one / other for one, other in zip(self.seconds[way], self.seconds[base], strict=True))


def interleave(ways: Mapping[str, Way], effort: Effort, server: CannedServer | None = None) -> Series:
    """Measure every way once a round, in an order that changes from round to round, after one round for warming up.

    Args:
        ways: What to measure, by name.
        effort: How many rounds.
        server: The server whose idle time is to be recorded.
    """
    order = list(ways)
    shuffle = random.Random(_SEED).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    idle: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(effort.rounds + 1):
        shuffle(order)
        for name in order:
            gc.collect()
            busy, begin = server.busy() if server else 0.0, time.perf_counter()
            cost = ways[name]()
            wall = time.perf_counter() - begin
            if number:
                seconds[name].append(cost)
            if number and server:
                idle[name].append(1 - (server.busy() - busy) / wall)
    return Series(seconds, {name: statistics.median(shares) for name, shares in idle.items() if shares})


def in_flight(
    runner: asyncio.Runner, operation: Operation, tasks: int, operations: int, clock: Clock = time.process_time
) -> Way:
    """Make a way out of an async operation, made by so many tasks at the same time.

    Args:
        runner: Whose event loop to use.
        operation: What to do.
        tasks: How many do it at the same time.
        operations: How often in all, about.
        clock: What to measure: this process's processor time, or the time on the wall.
    """
    each = max(1, operations // tasks)

    async def task(times: int) -> None:
        for _ in range(times):
            await operation()

    async def all_tasks(times: int) -> None:
        if tasks == 1:
            await task(times)
        else:
            await asyncio.gather(*(task(times) for _ in range(tasks)))

    def way() -> float:
        runner.run(all_tasks(1))  # connections that ran out of keep-alive since the last round
        begin = clock()
        runner.run(all_tasks(each))
        return (clock() - begin) / (each * tasks)

    return way


def in_threads(operation: Callable[[], object], threads: int, operations: int) -> Way:
    """Make a way out of a sync operation, made by so many threads at the same time."""
    each = max(1, operations // threads)

    def thread(times: int) -> None:
        for _ in range(times):
            operation()

    def all_threads(times: int) -> None:
        if threads == 1:
            thread(times)
            return
        running = [threading.Thread(target=thread, args=(times,)) for _ in range(threads)]
        for one in running:
            one.start()
        for one in running:
            one.join()

    def way() -> float:
        all_threads(1)
        begin = time.process_time()
        all_threads(each)
        return (time.process_time() - begin) / (each * threads)

    return way


def in_line(operation: Callable[[], object], operations: int) -> Way:
    """Make a way out of a function that does no I/O."""
    return in_threads(operation, 1, operations)
