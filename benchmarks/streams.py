"""Server-sent events: row 12. ``sse_decode`` has the stream and the two decoders."""

from collections.abc import Sequence
from statistics import median

from benchmarks.results import Row
from benchmarks.rounds import Effort, in_line, interleave
from benchmarks.server import CannedServer
from benchmarks.sse_decode import CHUNK, EVENTS, ours, stream, theirs


def measure(server: CannedServer, effort: Effort) -> Sequence[Row]:
    """Measure row 12 with one event a chunk and with large chunks."""
    del server
    single = stream()
    body = b"".join(single)
    large = [body[start : start + CHUNK] for start in range(0, len(body), CHUNK)]
    series = interleave(
        {
            "ours single": in_line(lambda: ours(single), 1),
            "theirs single": in_line(lambda: theirs(single), 1),
            "ours large": in_line(lambda: ours(large), 1),
            "theirs large": in_line(lambda: theirs(large), 1),
        },
        effort,
    )
    rows: list[Row] = []
    for cut, what, target in (("single", "one event a chunk", 2.0), ("large", "64 KiB chunks", 2.5)):
        ratios = series.ratios(f"theirs {cut}", f"ours {cut}")
        rows.append(
            Row(
                "12",
                f"events per second, `EventStreamDecoder` / httpx-sse, {what}",
                median(ratios),
                target=target,
                at_least=True,
                absolute=" / ".join(
                    f"{EVENTS / median(series.seconds[f'{who} {cut}']):,.0f}" for who in ("ours", "theirs")
                ),
                samples=ratios,
            )
        )
    return rows
