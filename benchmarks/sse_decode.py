"""Events per second of ``EventStreamDecoder`` and of httpx-sse, side by side on the same bytes.

Run as ``python -m benchmarks.sse_decode``; needs ``httpx-sse``. Only the ratios carry over to another machine.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import httpx
from attrs import frozen
from httpx_sse import EventSource

from perkamo.stream.sse import EventStreamDecoder

EVENTS: Final = 10_000
ROUNDS: Final = 7
CHUNK: Final = 65_536

Decode = Callable[[Sequence[bytes]], int]


@frozen
class Row:
    """One comparison.

    Attributes:
        name: How the stream is cut.
        ratio: Our events per second by theirs: the median of the rounds.
        target: What it has to reach.
        ours: The least microseconds of processor time for an event.
        theirs: The same for httpx-sse.
    """

    name: str
    ratio: float
    target: float
    ours: float
    theirs: float


class _Body(httpx.SyncByteStream):
    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)


def _response(chunks: Sequence[bytes]) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Body(chunks))


def ours(chunks: Sequence[bytes]) -> int:
    """Decode an httpx response with this library; returns the number of events."""
    decoder = EventStreamDecoder()
    return sum(len(decoder.feed(chunk)) for chunk in _response(chunks).iter_bytes())


def theirs(chunks: Sequence[bytes]) -> int:
    """Decode an httpx response with httpx-sse; returns the number of events."""
    return sum(1 for _ in EventSource(_response(chunks)).iter_sse())


def stream() -> list[bytes]:
    """Return customers as the sandbox sends them, one event a chunk."""
    customer = (
        '{"user_id":"customer_123","traits":{},"wallets":{"points":%d},"level":{"wallet":"points","level":1,'
        '"current":50,"nextLevelAt":100,"currentLevelAt":0,"progress":0.5},"perks":[]}'
    )
    return [f"id: {n}\nevent: customer.updated\ndata: {customer % n}\n\n".encode() for n in range(EVENTS)]


def rows() -> list[Row]:
    """Compare, in interleaved rounds, and return the rows of the table."""
    single = stream()
    body = b"".join(single)
    large = [body[start : start + CHUNK] for start in range(0, len(body), CHUNK)]
    return [_row("one event a chunk", single, 2.0), _row("chunks of 64 KiB", large, 2.5)]


def _row(name: str, chunks: Sequence[bytes], target: float) -> Row:
    rounds = [(_micros(ours, chunks), _micros(theirs, chunks)) for _ in range(ROUNDS)]
    return Row(
        name=name,
        ratio=statistics.median(their / our for our, their in rounds),
        target=target,
        ours=min(our for our, _ in rounds),
        theirs=min(their for _, their in rounds),
    )


def _micros(decode: Decode, chunks: Sequence[bytes]) -> float:
    start = time.process_time()
    count = decode(chunks)
    elapsed = time.process_time() - start
    if count != EVENTS:
        raise ValueError(f"{decode.__name__} found {count} events in place of {EVENTS}")
    return elapsed / EVENTS * 1e6


def main() -> None:
    """Print the table."""
    print("events per second, EventStreamDecoder / httpx-sse")
    for row in rows():
        times = f"{row.ours:.2f} and {row.theirs:.2f} us an event"
        print(f"  {row.name:<18} {row.ratio:5.2f}x  (target {row.target}x; {times})")


if __name__ == "__main__":
    main()
