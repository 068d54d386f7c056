# pyright: reportPrivateUsage=false
"""Sends a stream of events and returns a stream of outcomes, for synchronous code.

Written by hand, unlike the other twins: the stream is the caller's own code and must be read in the caller's thread.
"""

from collections.abc import Iterable, Iterator

from perkamo.batching.bulk import Given, Outcome, Pipe
from perkamo.batching.sync_sending import sending
from perkamo.sync.portal import run
from perkamo.sync_client import PerkamoClient


def sync_emit_many(
    client: PerkamoClient, events: Iterable[Given], *, concurrency: int = 4, ordered: bool = True
) -> Iterator[Outcome]:
    """Send a stream of events, of any length, in as few requests as possible; see ``perkamo.batching.bulk.emit_many``.

    Args:
        client: Sends the requests.
        events: Events, or mappings with the wire's field names; read in the calling thread.
        concurrency: The most requests at the same time, 1 to 64.
        ordered: Whether outcomes come in the order of the stream.

    Returns:
        An iterator over one outcome for each event. Errors of events are reported, never raised. If the stream itself
        raises, the events that were read before are sent and reported first; then the stream's error is raised.

    Raises:
        PerkamoConfigurationError: ``concurrency`` is out of its range.
    """
    return _outcomes(events, Pipe(sending(client), concurrency, ordered=ordered))


def _outcomes(events: Iterable[Given], pipe: Pipe) -> Iterator[Outcome]:
    stream = iter(events)
    broken: Exception | None = None
    is_over = False
    while not is_over:
        try:
            is_over = _fill(pipe, stream)
        except Exception as error:  # noqa: BLE001 - the stream's own error, raised after the outcomes of what was read before
            broken, is_over = error, True
        yield from run(pipe.flush)
    if broken is not None:
        raise broken


def _fill(pipe: Pipe, stream: Iterator[Given]) -> bool:
    """Read the next round; return whether the stream is over."""
    for event in stream:
        pipe.add(event)
        if pipe.is_full:
            return False
    return True
