"""The operator's commands, run as processes: import and outbox."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import anyio
import pytest

from perkamo.cli.outbox_output import show_stats
from perkamo.encoding.encode import JSONValue
from perkamo.events import Event
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.store import OutboxStats
from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.messages import Request, Response
from tests.batching.items import answer_batches

BATCH = "POST /v1/events:batch"


def command(sandbox: Sandbox, *words: object) -> "subprocess.Popen[bytes]":
    """Start a command with the sandbox's key and address in its environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "perkamo", *map(str, words)],
        env={**os.environ, "PERKAMO_SECRET_KEY": sandbox.api_key, "PERKAMO_BASE_URL": sandbox.base_url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(sandbox: Sandbox, *words: object, stdin: bytes | None = None) -> tuple[int, str, str]:
    """Run a command to its end; return its exit code and what it said."""
    process = command(sandbox, *words)
    out, err = process.communicate(stdin, timeout=60)
    return process.returncode, out.decode(), err.decode()


def lines(number: int) -> bytes:
    """Make the lines of events without transaction ids."""
    return b"".join(
        json.dumps({"user_id": f"customer_{n}", "event": "review.created", "context": {"n": n}}).encode() + b"\n"
        for n in range(number)
    )


def test_a_file_that_is_imported_twice_earns_once(sandbox: Sandbox, tmp_path: Path) -> None:
    """Lines without a transaction id get one derived from their text."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines(250) + b"\n")

    first = run(sandbox, "import", path)
    second = run(sandbox, "import", path)

    assert first == (0, "250 lines: 250 events applied, 0 known before, 0 refused\n", "")
    assert second == (0, "250 lines: 0 events applied, 250 known before, 0 refused\n", "")
    assert len(sandbox.events()) == 250
    assert [file.name for file in tmp_path.iterdir()] == ["events.jsonl"]


@pytest.mark.parametrize("form", ["gz", "stdin"])
def test_compressed_files_and_standard_input_are_read(sandbox: Sandbox, tmp_path: Path, form: str) -> None:
    """The usual pipelines work: FILE.jsonl.gz, and - for what another program writes."""
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress(lines(120)))

    code, out, err = run(sandbox, "import", path) if form == "gz" else run(sandbox, "import", "-", stdin=lines(120))

    assert (code, err) == (0, "")
    assert "120 events applied" in out
    assert len(sandbox.events()) == 120


def test_refused_lines_are_kept_with_their_reasons(sandbox: Sandbox, tmp_path: Path) -> None:
    """Whatever is wrong with a line, the others pass, and the operator gets number, reason and text."""

    def handler(request: Request) -> Response | None:
        return Response(422, body=b"{}") if b"poison" in request.body else None

    sandbox.add_handler(handler)
    good = lines(2).splitlines()
    path = tmp_path / "events.jsonl"
    bad = [b"not json", b"[1]", b'{"user_id":"u"}', b'{"user_id":"u","event":"e","context":{"k":"poison"}}', b"\xff"]
    path.write_bytes(b"\n".join([bad[0], good[0], *bad[1:4], b"x" * 1_100_000, good[1], bad[4]]))

    code, out, _ = run(sandbox, "import", path)

    rejected = tmp_path / "events.jsonl.rejected.jsonl"
    notes = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert code == 3
    assert "8 lines: 2 events applied, 0 known before, 6 refused" in out
    assert [note["line"] for note in notes] == [1, 3, 4, 5, 6, 8]
    assert all(note["reason"] for note in notes)
    assert notes[3]["text"] == bad[3].decode()
    assert rejected.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("item", [{"error": {"code": "invalid_event", "message": "unknown event"}}, None])
def test_an_item_that_is_not_accepted_is_a_refused_line(sandbox: Sandbox, tmp_path: Path, item: JSONValue) -> None:
    """The others count, the line is kept with the item's words, and the exit code says so; catches a line that counts.

    One without a reason is sent alone a few times first.
    """
    answer_batches(sandbox, item)
    path = tmp_path / "events.jsonl"
    ids = ["good_0", "poison", "good_1"]
    path.write_bytes(b"".join(b'{"user_id":"u","event":"e","transaction_id":"%s"}\n' % one.encode() for one in ids))

    code, out, err = run(sandbox, "import", path)

    [note] = [json.loads(line) for line in (tmp_path / "events.jsonl.rejected.jsonl").read_text().splitlines()]
    assert (code, err) == (3, "")
    assert "3 lines: 2 events applied, 0 known before, 1 refused" in out
    assert note["line"] == 2
    assert ("unknown event" if item else "null") in note["reason"]
    assert len(sandbox.requests) == (1 if item else 4)


def test_a_line_whose_answer_lacks_its_result_is_a_refused_line(sandbox: Sandbox, tmp_path: Path) -> None:
    """Found by halving, tried alone, kept with the reason; catches an import that can't get past it."""
    answer_batches(sandbox, "poison", lambda results: {"results": [one for one in results if one != "poison"]})
    path = tmp_path / "events.jsonl"
    ids = ["good_0", "poison", "good_1", "good_2"]
    path.write_bytes(b"".join(b'{"user_id":"u","event":"e","transaction_id":"%s"}\n' % one.encode() for one in ids))

    code, out, err = run(sandbox, "import", path)

    [note] = [json.loads(line) for line in (tmp_path / "events.jsonl.rejected.jsonl").read_text().splitlines()]
    assert (code, err) == (3, "")
    assert "4 lines: 0 events applied, 3 known before, 1 refused" in out  # applied unseen, with the first answer
    assert (note["line"], "has 0 results for 1 events" in note["reason"]) == (2, True)


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.stress), signal.SIGKILL])
def test_an_interrupted_import_goes_on_where_it_stopped(sandbox: Sandbox, tmp_path: Path, how: signal.Signals) -> None:
    """Stopped in the middle, then the same command: every event counts once, and not everything is sent again."""
    path = tmp_path / "events.jsonl"
    text = lines(20_000).splitlines(keepends=True)
    text[::1000] = [b"broken\n"] * 20
    path.write_bytes(b"".join(text))
    interrupted = command(sandbox, "import", path, "--concurrency", 1)
    deadline = time.monotonic() + 30
    while len(sandbox.events()) < 3_000 and time.monotonic() < deadline:
        time.sleep(0.005)
    interrupted.send_signal(how)
    _, err = interrupted.communicate(timeout=30)
    before = len(sandbox.events())

    code, out, again = run(sandbox, "import", path)

    notes = [json.loads(line) for line in (tmp_path / "events.jsonl.rejected.jsonl").read_text().splitlines()]
    assert interrupted.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert (b"perkamo import: interrupted after line" in err) == (how == signal.SIGINT)
    assert before < 19_980
    assert (code, "Continuing after line" in again) == (3, True)
    assert "20,000 lines" in out
    assert len({event.user_id for event in sandbox.events()}) == len(sandbox.events()) == 19_980
    assert [note["line"] for note in notes] == list(range(1, 20_001, 1000))
    assert sum(len(json.loads(record.body)["events"]) for record in sandbox.requests) < 25_000


def test_an_import_stops_when_the_key_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    """Thousands of lines must not end in the file of refused lines because of a wrong key."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines(10))
    sandbox.faults.next(BATCH, Status(401), times=1)

    code, _, err = run(sandbox, "import", path)
    resumed = run(sandbox, "import", path)

    assert code == 1
    assert "Stopped after line 0" in err
    assert "sk_test" not in err
    assert resumed[0] == 0
    assert len(sandbox.events()) == 10


def test_a_file_that_is_not_there_is_explained(sandbox: Sandbox, tmp_path: Path) -> None:
    """One line in place of a traceback."""
    code, _, err = run(sandbox, "import", tmp_path / "missing.jsonl")

    assert code == 1
    assert "No such file" in err
    assert "Traceback" not in err


async def _fill(path: Path, number: int) -> None:
    async with Outbox(path) as outbox:
        for n in range(number):
            await outbox.put(Event(f"customer_{n}", "review.created", f"review_{n}"))


async def _pending(path: Path) -> int:
    async with Outbox(path) as outbox:
        return (await outbox.stats()).pending


def test_the_outbox_command_counts_delivers_and_sees_to_dead_letters(sandbox: Sandbox, tmp_path: Path) -> None:
    """An operator's round: look, deliver, read the dead letter, let it wait again, deliver."""
    path = tmp_path / "outbox"
    anyio.run(_fill, path, 1)
    sandbox.faults.next(BATCH, Status(422), times=1)

    counted = run(sandbox, "outbox", "stats", path, "--json")
    refused = run(sandbox, "outbox", "relay", path, "--until-empty")
    dead = run(sandbox, "outbox", "dead", path, "--json")
    with_events = run(sandbox, "outbox", "dead", path, "--events", "--json")
    again = run(sandbox, "outbox", "requeue", path, "--transaction-id", "review_0")
    delivered = run(sandbox, "outbox", "relay", path, "--until-empty")
    after = json.loads(run(sandbox, "outbox", "stats", path, "--json")[1])

    assert json.loads(counted[1])["pending"] == 1
    assert refused[0] == 0
    assert json.loads(dead[1])["transaction_id"] == "review_0"
    assert "422" in json.loads(dead[1])["reason"]
    assert "customer_0" not in dead[1]
    assert json.loads(with_events[1])["event"]["user_id"] == "customer_0"
    assert again[1] == "Dead letters queued for delivery again: 1.\n"
    assert delivered[0] == 0
    assert (after["accepted"], after["delivered"], after["dead"]) == (1, 1, 0)
    assert len(sandbox.events()) == 1


def test_stats_fail_where_an_event_has_waited_too_long(sandbox: Sandbox, tmp_path: Path) -> None:
    """By the exit code, for cron and probes; catches a probe that is always content, or never."""
    path = tmp_path / "outbox"
    anyio.run(_fill, path, 1)
    time.sleep(0.02)

    young = run(sandbox, "outbox", "stats", path, "--fail-if-older", "10m")
    old = run(sandbox, "outbox", "stats", path, "--fail-if-older", "0.01s", "--json")
    odd = run(sandbox, "outbox", "stats", path, "--fail-if-older", "ten minutes")
    run(sandbox, "outbox", "relay", path, "--until-empty")
    empty = run(sandbox, "outbox", "stats", path, "--fail-if-older", "0")

    assert (young[0], old[0], odd[0], empty[0]) == (0, 1, 2, 0)
    assert "(not known yet)" in young[1]
    assert 0.02 <= json.loads(old[1])["oldest_age"] < 300
    assert "The oldest event that waits was put" in old[2]
    assert "write 90, 90s, 10m, 2h or 1d" in odd[2]
    assert json.loads(old[1])["spaces"][0]["pending"] == 1


@pytest.mark.parametrize(("pending", "exit_code"), [(1, 1), (0, 0)])
def test_stats_fail_where_an_age_was_asked_for_and_cannot_be_read(
    pending: int, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk, which shows the counts alone; catches a probe that is content without having looked."""
    stats = OutboxStats(1, 1 - pending, pending, dead=0, missing=0, size=9, files=1, set_aside=0)
    args = Namespace(action="stats", json=False, until_empty=False, fail_if_older=600.0)

    assert show_stats(args, stats) == exit_code
    assert ("can't be read" in capsys.readouterr().err) == bool(pending)


def test_the_relay_command_delivers_until_it_is_interrupted(sandbox: Sandbox, tmp_path: Path) -> None:
    """It takes over what other processes leave while it runs, and Ctrl-C is its ordinary end."""
    path = tmp_path / "outbox"
    anyio.run(_fill, path, 3)
    process = command(sandbox, "outbox", "relay", path)
    deadline = time.monotonic() + 30
    while anyio.run(_pending, path) and time.monotonic() < deadline:
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"Delivering until Ctrl-C.\nStopped. What waits is kept.\n")
    assert re.search(rb"^delivered +3$", out, re.MULTILINE)
    assert len(sandbox.events()) == 3


def test_a_directory_that_is_not_there_is_not_made(sandbox: Sandbox, tmp_path: Path) -> None:
    """A typing mistake must not look like an empty outbox."""
    code, _, err = run(sandbox, "outbox", "stats", tmp_path / "outbocks")

    assert code == 1
    assert "is not a directory" in err
    assert not (tmp_path / "outbocks").exists()


@pytest.mark.sample(3)
@pytest.mark.parametrize("action", ["stats", "dead", "requeue"])
def test_a_place_that_holds_no_outbox_is_not_touched(sandbox: Sandbox, tmp_path: Path, action: str) -> None:
    """Neither its mode nor its files change; catches an outbox that is made in /tmp by looking for one."""
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o1777)
    (place / "other_app.txt").write_text("hello")

    code, _, err = run(sandbox, "outbox", action, place)

    assert (code, "contains no outbox" in err) == (1, True)
    assert place.stat().st_mode & 0o7777 == 0o1777
    assert [path.name for path in place.iterdir()] == ["other_app.txt"]


@pytest.mark.stress
def test_a_relay_that_leaves_events_waiting_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    """--until-empty exits non-zero while anything waits, with the command's own options in the message."""
    path = tmp_path / "outbox"

    async def fill() -> None:
        async with Outbox(path, space="commerce-live") as outbox:
            await outbox.put(Event("customer", "review.created", "review_1"))

    anyio.run(fill)
    other = run(sandbox, "outbox", "relay", path, "--until-empty")
    named = run(sandbox, "outbox", "relay", path, "--until-empty", "--space", "commerce-live")

    assert other[0] == 1
    assert "--rebind" in other[2]
    assert "--space" in other[2]
    assert "Outbox." not in other[2]
    assert named[0] == 0
    assert len(sandbox.events()) == 1


def test_missing_events_are_in_the_counts_and_in_the_exit_code(sandbox: Sandbox, tmp_path: Path) -> None:
    """What was deleted while nobody ran is told by every look."""
    path = tmp_path / "outbox"
    anyio.run(_fill, path, 3)
    for file in path.glob("*.sqlite3*"):
        file.unlink()

    code, out, err = run(sandbox, "outbox", "stats", path, "--json")

    assert (code, json.loads(out)["missing"], json.loads(out)["accepted"]) == (1, 3, 3)
    assert "are missing: 3" in err


@pytest.mark.sample(2)
@pytest.mark.parametrize("action", ["requeue", "stats", "dead", "relay"])
def test_a_second_word_is_refused(sandbox: Sandbox, tmp_path: Path, action: str) -> None:
    """Only move takes one; catches ``requeue DIR ID``, which would queue all dead letters again."""
    path = tmp_path / "outbox"
    anyio.run(_fill, path, 1)

    code, out, err = run(sandbox, "outbox", action, path, "review_0")

    assert (code, out, sandbox.requests) == (2, "", ())
    assert f"{action} takes one outbox" in err
    assert ("--transaction-id" in err) is (action == "requeue")
    assert "review_0" not in err


def test_an_id_that_is_no_dead_letter_is_reported(sandbox: Sandbox, tmp_path: Path) -> None:
    """Requeueing it fails; catches a success that did nothing."""
    path = tmp_path / "outbox"
    anyio.run(_fill, path, 1)

    code, out, err = run(sandbox, "outbox", "requeue", path, "--transaction-id", "review_0")

    assert code == 1
    assert out == "Dead letters queued for delivery again: 0.\n"
    assert "no dead letter" in err
