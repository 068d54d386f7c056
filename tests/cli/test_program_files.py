"""cli.program: a program file is checked, and two are compared over recorded events."""

import copy
import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from perkamo.cli import program_diff
from perkamo.cli.main import main
from perkamo.cli.program_diff import compare
from perkamo.sandbox.blueprint import read_program
from perkamo.sandbox.shop import SHOP_PROGRAM


def write(file: Path, **changes: object) -> str:
    """A program file: the shop's, with changes."""
    file.write_text(json.dumps({**copy.deepcopy(SHOP_PROGRAM), **changes}))
    return str(file)


def event(number: int, user: str = "ada", key: str = "purchase.completed", **context: object) -> str:
    """A line of a file of events."""
    body = {"user_id": user, "event": key, "transaction_id": f"t{number}", "context": context or {"amount": 10_000}}
    return json.dumps(body)


NEXT = {
    "earningRules": [
        {"event": "purchase.completed", "reward": {"wallet": "points", "formula": "{{amount}} / 50"}},
        {"event": "review.created", "reward": {"wallet": "stars", "amount": 2}},
    ]
}
LINES = [
    event(1),
    event(2, "bob", "review.created"),
    event(3, "eve", "page.viewed"),
    event(1),  # a duplicate
    event(4, "cyd", "newsletter.subscribed"),
]


def test_a_right_file_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect 0 and a sentence, or JSON."""
    file = write(tmp_path / "program.json")

    assert main(["program", "check", file]) == 0
    assert capsys.readouterr().out == "Sandbox shop: 8 earning rules, no problems found.\n"
    assert main(["program", "check", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "problems": []}


def test_a_wrong_file_is_refused_with_all_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect 3 and a line for each problem; 1 for a file that is not there."""
    rules = [{"event": "a", "reward": {"amount": "5"}}, {"event": "b", "reward": {"wallet": "x", "amount": 5}}]
    file = write(tmp_path / "program.json", earningRules=rules)

    assert main(["program", "check", file]) == 3
    assert capsys.readouterr().out.splitlines() == [
        "program.earningRules[0].reward.amount must be a number",
        "program.earningRules[1].reward.wallet names 'x', which is not one of: points, stars",
    ]
    assert main(["program", "check", file, "--json"]) == 3
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2
    assert main(["program", "check", str(tmp_path / "none.json")]) == 1


def test_wrong_wallets_and_unknown_fields_hide_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect all else to be told in the same run, and nothing that follows from a wallet that can't be read."""
    file = write(
        tmp_path / "program.json",
        wallets=[{"key": "points"}, {"key": "points"}, {"name": "Stars"}],
        earningRules=[{"event": "a", "when": 1, "lable": "A", "reward": {"wallet": "stars", "amount": "5"}}],
        rule=[],
        rewards=[{"key": "voucher", "wallet": "stars", "cost": -1}],
    )

    assert main(["program", "check", file]) == 3
    assert [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "program.wallets[2].key",
        "program.wallets[1].key",
        "program.rule",
        "program.earningRules[0].when",
        "program.earningRules[0].lable",
        "program.earningRules[0].reward.amount",
        "program.rewards[0].cost",
    ]


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Expect JSON with the draft that it is of."""
    assert main(["program", "schema"]) == 0

    assert json.loads(capsys.readouterr().out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("words", [["check"], ["diff", "a", "b"], ["schema", "a"], ["show", "a"], ["nonsense"]])
def test_a_wrong_number_of_files_is_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Expect 2 and how it is written."""
    try:
        code = main(["program", *words])
    except SystemExit as end:
        code = int(end.code or 0)

    assert code == 2
    assert words[0] in capsys.readouterr().err or words == ["nonsense"]


def test_two_programs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect sums by wallet and event, who gains and loses, levels and the largest differences, by hand's figures."""
    old, new = write(tmp_path / "old.json"), write(tmp_path / "new.json", **NEXT)
    events = tmp_path / "events.jsonl"
    events.write_text("\n".join([*LINES, ""]))

    assert main(["program", "diff", old, new, str(events), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["events"], found["duplicates"], found["customers"], found["without_rule"]) == (4, 1, 4, 1)
    wallets = {row.pop("wallet"): row for row in found["by_wallet"]}
    assert wallets["points"] == {"old": 130, "new": 200, "difference": 70, "gaining": 1, "losing": 2}
    assert wallets["stars"] == {"old": 1, "new": 2, "difference": 1, "gaining": 1, "losing": 0}
    by_event = {(row["event"], row["wallet"]): row["difference"] for row in found["by_event"]}
    assert by_event == {
        ("purchase.completed", "points"): 100,
        ("review.created", "points"): -20,
        ("review.created", "stars"): 1,
        ("newsletter.subscribed", "points"): -10,
    }
    assert [(row["user_id"], row["wallet"], row["difference"]) for row in found["largest"]][:2] == [
        ("ada", "points", 100),
        ("bob", "points", -20),
    ]
    assert found["level_changes"] == []


def test_a_person_sees_the_same_in_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect the levels that change, too, with who changes."""
    old, new = write(tmp_path / "old.json"), write(tmp_path / "new.json", **NEXT)
    events = tmp_path / "events.jsonl.gz"
    with gzip.open(events, "wt") as file:
        file.write(event(1, amount=6000) + "\n" + event(2, "bob", amount=6000))

    assert main(["program", "diff", old, new, str(events)]) == 0

    shown = capsys.readouterr().out
    assert shown.startswith("2 events of 2 customers, 0 duplicates left out\n")
    assert "\npoints  120  240  +120        2     0\n" in shown
    assert "\n2 customers change level.\n" in shown
    assert "\n1 -> 2  2\n" in shown
    assert "\nada       points  60   120  +60         1 -> 2\n" in shown


def test_a_recording_of_the_sandbox_can_be_compared() -> None:
    """Expect events and batches that were taken, and nothing of what was refused or read."""

    def recorded(path: str, body: object, status: int = 200) -> str:
        return json.dumps({"time": 1, "method": "POST", "path": path, "body": json.dumps(body), "status": status})

    shop, first = read_program(SHOP_PROGRAM), json.loads(event(1))
    lines = [
        recorded("/v1/events", first, status=503),
        recorded("/v1/events", first),
        recorded("/v1/events:batch", {"events": [json.loads(event(2)), first, "odd"]}),
        recorded("/v1/identify", {"user_id": "ada"}),
        json.dumps({"time": 1, "method": "GET", "path": "/v1/program", "body": "", "status": 200}),
    ]

    found = compare(shop, shop, lines)

    assert (found.events, found.duplicates, found.refused) == (2, 1, 0)


def test_lines_that_can_not_be_read_are_told_with_their_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expect the rest to be compared, exit code 3, and no value of theirs."""
    program = write(tmp_path / "program.json")
    events = tmp_path / "events.jsonl"
    lines = [event(1), "secret@example.com", '{"event": "x", "users": "secret@example.com"}', *["[]"] * 9]
    events.write_text("\n".join(lines))

    assert main(["program", "diff", program, program, str(events)]) == 3

    told = capsys.readouterr()
    assert "1 event of 1 customer, 0 duplicates" in told.out
    assert "11 lines can't be read: line 2: is not JSON; line 3: user_id is missing; line 4: " in told.err
    assert "secret" not in told.err


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz", "-"])
def test_events_are_read_as_import_reads_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expect a line without a transaction id to count once, however often it comes, and a byte-order mark to pass."""
    program = write(tmp_path / "program.json")
    line = json.dumps({"user_id": "ada", "event": "purchase.completed", "context": {"amount": 10_000}})
    data = b"\xef\xbb\xbf" + "\r\n".join([line, f" {line}", event(1)]).encode()
    file = tmp_path / name
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with file.open() as opened:
        monkeypatch.setattr("sys.stdin", opened)

        assert main(["program", "diff", program, program, name if name == "-" else str(file)]) == 0

    assert capsys.readouterr().out.startswith("2 events of 1 customer, 1 duplicate left out\n")


def test_a_wrong_program_and_a_file_that_is_not_there_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expect which file it is."""
    right = write(tmp_path / "right.json")
    wrong = write(tmp_path / "wrong.json", wallets=[])
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(event(1).encode() * 100)[:-20])

    assert main(["program", "diff", right, wrong, "-"]) == 3
    assert "wrong.json: program.wallets must name" in capsys.readouterr().err
    assert main(["program", "diff", right, right, str(cut)]) == 3
    assert "cut.gz can't be read" in capsys.readouterr().err
    assert main(["program", "diff", right, right, str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


@pytest.mark.stress
def test_the_memory_does_not_grow_with_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect eight times as many events and customers to need hardly more: catches a set of ids, a dict of users."""
    monkeypatch.setattr(program_diff, "BATCH", 500)
    shop = read_program(SHOP_PROGRAM)

    def peak(count: int) -> int:
        def lines() -> Iterator[str]:
            return (event(number, f"user_{number}") for number in range(count))

        tracemalloc.start()
        found = compare(shop, shop, lines())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (found.events, found.customers) == (count, count)
        return most

    small = peak(1000)

    assert peak(8000) < small * 1.3
