# pyright: reportPrivateUsage=false
"""A stream of events in, a stream of what became of each out, for synchronous code.

Written by hand, unlike the other twins: the stream is the caller's own code and must be read in the caller's thread.
"""

from collections.abc import Iterable, Iterator

from perkamo.batching.bulk import Given, Outcome, Pipe
from perkamo.sync.portal import run
from perkamo.sync_client import PerkamoClient


def sync_emit_many(
    client: PerkamoClient, events: Iterable[Given], *, concurrency: int = 4, ordered: bool = True
) -> Iterator[Outcome]:
    """Send a stream of events, of any length, in as few requests as possible; see ``perkamo.batching.bulk.emit_many``.

    Args:
        client: Sends the requests.
        events: Events, or mappings with the wire's field names; read in the calling thread.
        concurrency: How many requests may be on their way at once, 1 to 64.
        ordered: Tell outcomes in the order of the stream.

    Returns:
        An iterator over one outcome for each event. Errors of events are told, never raised.

    Raises:
        PerkamoConfigurationError: ``concurrency`` is out of its range.
    """
    return _outcomes(events, Pipe(client._async, concurrency, ordered=ordered))


def _outcomes(events: Iterable[Given], pipe: Pipe) -> Iterator[Outcome]:
    for event in events:
        pipe.add(event)
        if pipe.is_full:
            yield from run(pipe.flush)
    yield from run(pipe.flush)
