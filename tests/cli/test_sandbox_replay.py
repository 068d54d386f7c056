"""cli.sandbox_replay: what is recorded, and what is played, within one process."""

import gzip
import threading
from pathlib import Path

import anyio
import pytest

from perkamo import Event, Outbox, PerkamoClient
from perkamo.cli.recorded_lines import RecordedLines
from perkamo.cli.sandbox_replay import Replay, recording
from perkamo.sandbox import Sandbox

LINE = '{"user_id": "a", "event": "user.registered"}\n'


def play(sandbox: Sandbox, name: str) -> Replay:
    """A replay of a file, ended."""
    replay, ended = Replay(sandbox, 0.0, threading.Event()), threading.Event()
    replay.start(RecordedLines(name), ended.set)
    assert ended.wait(20) or replay.problem
    replay.join()
    return replay


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz", "-"])
def test_events_are_played_as_import_reads_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a compressed file and standard input to play, and a line without a transaction id to count once."""
    data = ("\ufeff" + LINE * 2).encode()
    file = tmp_path / name
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    sandbox = Sandbox()

    with file.open() as opened:
        monkeypatch.setattr("sys.stdin", opened)
        replay = play(sandbox, name if name == "-" else str(file))

    assert replay.summary() == "Replayed 2 requests. 200: 2"
    assert len(sandbox.events()) == 1


def test_a_damaged_file_is_a_problem_and_stops_the_sandbox(tmp_path: Path) -> None:
    """Expect the reason; catches a thread that dies while the sandbox waits for Ctrl-C."""
    file = tmp_path / "events.jsonl.gz"
    file.write_bytes(gzip.compress(LINE.encode() * 99)[:-12])
    replay = Replay(Sandbox(), 0.0, threading.Event())

    replay.start(RecordedLines(str(file)), lambda: None)

    assert replay.stop.wait(20)
    assert replay.problem is not None
    assert replay.problem.startswith("the recording can't be read: Compressed file ended")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_full_disk_ends_the_recording_and_not_the_answers() -> None:
    """Expect every call to be answered, and the error to be told once."""
    told: list[OSError] = []
    with (
        Sandbox() as sandbox,
        recording(sandbox, Path("/dev/full"), pseudonyms=False, failed=told.append),
        PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client,
    ):
        results = [client.emit("a", "review.created", transaction_id=f"review_{number}") for number in range(2)]

    assert [(result.applied, result.meta.attempts) for result in results] == [(True, 1), (True, 1)]
    assert [error.strerror for error in told] == ["No space left on device"]


def test_an_outbox_of_another_space_is_reported(tmp_path: Path) -> None:
    """Expect the number of events that were not played, and what to add; catches "Replayed 0 requests." alone."""
    place = tmp_path / "outbox"

    async def fill() -> None:
        async with Outbox(place, space="shop") as outbox:
            await outbox.put(Event("a", "review.created", "review_1"))

    anyio.run(fill)
    ended = threading.Event()
    with Sandbox() as sandbox:
        replay = Replay(sandbox, 0.0, threading.Event())
        replay.start_outbox(place, None, ended.set)
        assert ended.wait(20)
        replay.join()

    assert replay.summary() == "Replayed 0 requests. 1 event still waits: name their Space with --space."


def test_a_replay_of_an_outbox_ends_when_it_is_told_to(tmp_path: Path) -> None:
    """Expect no problem and no copy left behind; catches a delivery that goes on while its files are removed."""
    place = tmp_path / "outbox"

    async def fill() -> None:
        async with Outbox(place) as outbox:
            await outbox.put(Event("a", "review.created", "review_1"))

    anyio.run(fill)
    with Sandbox() as sandbox:
        replay = Replay(sandbox, 0.0, threading.Event())
        replay.stop.set()
        replay.start_outbox(place, None, lambda: pytest.fail("it was told to end"))
        replay.join()

    assert replay.problem is None
    assert not any(thread.name == "perkamo-sandbox-replay" for thread in threading.enumerate())
