"""check: the sandbox is confirmed row by row, and of each other dialect exactly the row that differs is named."""

import json
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from perkamo.cli.main import main
from perkamo.contract import FACTS
from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.dialect import CHOICES
from perkamo.sandbox.messages import Request, Response, json_response
from tests.cli.conftest import COMMAND, Perkamo, variables

CUSTOMER = "customer_of_the_check"
UNSEEN = {"webhook.delivery", "webhook.schedule"}
"""What the service sends to others, which no request shows."""


def environment(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    """Point the command at a sandbox."""
    for name, value in variables(sandbox).items():
        if name.startswith("PERKAMO_"):
            monkeypatch.setenv(name, value)


def checked(
    capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, dict[str, dict[str, str]], Mapping[str, str]]:
    """Run the command here; return its exit code, the facts that it found by name, and the dialect."""
    code = main(["check", "--json", *words])
    document = json.loads(capsys.readouterr().out)
    facts = cast("list[dict[str, str]]", document["facts"])
    return code, {fact["name"]: fact for fact in facts}, cast("Mapping[str, str]", document["dialect"])


def named(facts: Mapping[str, Mapping[str, str]], found: str) -> dict[str, str]:
    """Return the facts of which this was found, with the details."""
    return {name: fact["detail"] for name, fact in facts.items() if fact["found"] == found}


def test_every_row_is_confirmed_by_the_sandbox(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the webhooks, which go elsewhere; catches a question that can't tell, or a sandbox that strays."""
    environment(monkeypatch, sandbox)

    code, facts, dialect = checked(capsys, "--write", CUSTOMER)

    assert (code, dialect) == (0, {})
    assert facts.keys() == FACTS.keys()
    assert set(named(facts, "confirmed")) == FACTS.keys() - UNSEEN
    assert named(facts, "differs") == {}


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(name, way, marks=[] if way == ways[0] else pytest.mark.stress)
        for name, ways in CHOICES.items()
        for way in ways
    ],
)
def test_each_dialect_is_named_exactly(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one row that differs, by the name of its alternative, and no other; catches a question that is misled."""
    with Sandbox(dialect={name: way}) as sandbox:
        environment(monkeypatch, sandbox)

        code, facts, dialect = checked(capsys, "--write", CUSTOMER)

    assert named(facts, "differs") == dialect == {name: way}
    assert code == 0


def test_without_write_nothing_is_changed(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only GETs leave, and what needs more says so; catches an event that nobody asked for."""
    environment(monkeypatch, sandbox)

    code, facts, _ = checked(capsys)

    assert code == 0
    assert {record.method for record in sandbox.requests} == {"GET"}
    assert facts["program.blueprint"]["found"] == facts["customer.unknown"]["found"] == "confirmed"
    assert (facts["event.reserved"]["found"], facts["event.reserved"]["detail"]) == ("could not tell", "needs --write")
    assert sandbox.events() == ()


def test_it_says_what_it_sends_and_shows_no_key_id_or_value(sandbox: Sandbox, perkamo: Perkamo, tmp_path: Path) -> None:
    """Before anything is sent, on stderr; the output and the file are fit for a mailing list."""
    saved = tmp_path / "service.json"

    shown = perkamo("check", "--write", CUSTOMER, "--save", str(saved))

    assert shown.returncode == 0
    assert shown.stderr.startswith("Of the test customer this sends:\n")
    text = shown.stdout + shown.stderr + saved.read_text("utf-8")
    secrets = [sandbox.api_key, sandbox.browser_key, CUSTOMER, sandbox.base_url.rpartition(":")[2]]
    secrets += [event.transaction_id for event in sandbox.events()]
    assert [secret for secret in secrets if secret in text] == []
    assert "83 confirmed, 0 differ, 2 could not be determined." in shown.stdout
    assert sandbox.events(CUSTOMER)


def test_a_published_fact_that_does_not_hold_fails(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The row says how, and the exit code is 1; catches a check that passes whatever it finds."""

    def handler(request: Request) -> Response | None:
        return json_response(200, {"applied": "yes"}) if request.path == "/v1/events" else None

    sandbox.add_handler(handler)
    environment(monkeypatch, sandbox)
    monkeypatch.setattr("perkamo.cli.checking.others.STREAM_SECONDS", 0.5)  # of an event that is not applied

    code, facts, dialect = checked(capsys, "--write", CUSTOMER)

    assert code == 1
    assert facts["result.applied"]["detail"] == "has a text"
    assert facts["result.delta"]["detail"] == "is missing"
    assert "event.reserved" in named(facts, "differs")
    assert dialect.keys() <= CHOICES.keys()


OTHERWISE: dict[str, tuple[str, Response, dict[str, str]]] = {
    "an event answered with HTML": (
        "/v1/events",
        Response(200, (), b"<html>"),
        {"endpoints": "/v1/events is not answered with an object"},
    ),
    "no identify": (
        "/v1/identify",
        json_response(404, {"message": "no"}),
        {"endpoints": "/v1/identify answers 404"},
    ),
    "a batch answered with a list": (
        "/v1/events:batch",
        json_response(200, []),
        {"batch.results": "two events are answered with 200, without a list of two items"},
    ),
    "no batch": ("/v1/events:batch", json_response(404, {}), {"endpoints": "/v1/events:batch answers 404"}),
    "a program in HTML": (
        "/v1/program",
        Response(200, (), b"<html>"),
        {"endpoints": "GET /v1/program is not answered with JSON"},
    ),
    "rules without events": (
        "/v1/program",
        json_response(200, {"blueprint": {"earningRules": [{"key": "e"}], "wallets": []}, "metrics": {}, "usage": {}}),
        {"rule.event": "is missing, or not a text"},
    ),
}


@pytest.mark.parametrize("otherwise", OTHERWISE.values(), ids=OTHERWISE)
def test_an_endpoint_that_is_otherwise_fails_by_its_own_row(
    otherwise: tuple[str, Response, dict[str, str]],
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 1, and no other published row differs; catches a service that passes though no client could use it."""
    path, answer, differing = otherwise

    def handler(request: Request) -> Response | None:
        is_ours = ("x-perkamo-api-key", sandbox.api_key) in request.headers
        return answer if request.path == path and is_ours else None

    sandbox.add_handler(handler)
    environment(monkeypatch, sandbox)
    monkeypatch.setattr("perkamo.cli.checking.others.STREAM_SECONDS", 0.2)

    code, facts, _ = checked(capsys, "--write", CUSTOMER)

    found = {name: detail for name, detail in named(facts, "differs").items() if FACTS[name].known == "published"}
    assert found == differing
    assert code == 1


def test_a_key_that_is_refused_says_nothing_of_the_service(perkamo: Perkamo) -> None:
    """One line says so, and no row differs; catches a report in which everything is wrong."""
    shown = perkamo("check", "--json", "--write", CUSTOMER, PERKAMO_SECRET_KEY="sk_test_of_another_space")

    document = json.loads(shown.stdout)
    [connection] = [row for row in document["surroundings"] if row["name"] == "connection"]
    assert shown.returncode == 1
    assert connection["text"] == "the program is answered with 401; check the server key and this machine's clock"
    assert {fact["found"] for fact in document["facts"]} == {"could not tell"}


def test_a_failure_of_the_service_hides_its_own_rows_alone(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A 503 is no answer to a question, and a 429 is waited out; catches a rate limit that reads as a refusal."""
    environment(monkeypatch, sandbox)
    sandbox.faults.next("GET /v1/usage", Status(503))
    sandbox.faults.next("POST /v1/identify", Status(429, {"retry-after": "0"}), times=2)

    code, facts, _ = checked(capsys, "--write", CUSTOMER)

    assert code == 0
    assert set(named(facts, "could not tell")) == UNSEEN | {"usage", "usage.answer"}
    assert named(facts, "differs") == {}


def test_where_no_event_is_taken_nothing_is_said_of_events(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Space that refuses a sound event may have its reasons; catches forty rows that seem to differ."""

    def handler(request: Request) -> Response | None:
        return json_response(403, {"message": "not here"}) if request.path == "/v1/events" else None

    sandbox.add_handler(handler)
    environment(monkeypatch, sandbox)

    code, facts, _ = checked(capsys, "--write", CUSTOMER)

    assert code == 0
    assert facts["endpoints"]["detail"] == "a valid event is not accepted"
    assert named(facts, "differs") == {}


def test_surroundings_are_reported(perkamo: Perkamo, sandbox: Sandbox) -> None:
    """Key, name, TLS, proxies, connection and clock each have a line; catches a clock that is off and goes unseen."""
    sandbox.clock.advance(1200)

    shown = perkamo("check", "--json", HTTPS_PROXY="http://user:s3cret@127.0.0.1:9", NO_PROXY="example.org")

    rows = {row["name"]: row for row in json.loads(shown.stdout)["surroundings"]}
    assert {"server key", "name", "TLS", "proxy variables", "connection", "clock"} == rows.keys()
    assert rows["clock"]["ok"] is False
    assert "behind the service's" in rows["clock"]["text"]
    assert rows["proxy variables"]["text"].startswith("set: HTTPS_PROXY, NO_PROXY")
    assert "s3cret" not in shown.stdout
    assert shown.returncode == 0


@pytest.mark.parametrize(
    ("variables_", "row", "words"),
    [
        ({"PERKAMO_BASE_URL": "http://127.0.0.1:1"}, "connection", "refused"),
        ({"PERKAMO_BASE_URL": "https://nowhere.invalid"}, "name", "not found"),
        ({"PERKAMO_BASE_URL": "https://127.0.0.1:1", "SSL_CERT_FILE": "/no/such/file"}, "TLS", "SSL_CERT_FILE"),
    ],
)
def test_a_service_out_of_reach_fails_and_says_where(
    perkamo: Perkamo, variables_: dict[str, str], row: str, words: str
) -> None:
    """Exit code 1, and the surroundings say what is wrong; catches a traceback for the first person with an account."""
    shown = perkamo("check", "--json", **variables_)

    rows = {one["name"]: one for one in json.loads(shown.stdout)["surroundings"]}
    assert (shown.returncode, rows["connection"]["ok"]) == (1, False)
    assert rows[row]["ok"] is False
    assert words in rows[row]["text"]
    assert shown.stderr == ""
    assert "Error" not in rows["connection"]["text"]


def test_certificates_that_cannot_be_read_are_reported(perkamo: Perkamo, tmp_path: Path) -> None:
    """The row of TLS names the variable; catches a file that is there, and is no file of certificates."""
    file = tmp_path / "ca.pem"
    file.write_text("nonsense")

    shown = perkamo("check", "--json", PERKAMO_BASE_URL="https://127.0.0.1:1", SSL_CERT_FILE=str(file))

    [tls] = [row for row in json.loads(shown.stdout)["surroundings"] if row["name"] == "TLS"]
    assert tls["ok"] is False
    assert "SSL_CERT_FILE" in tls["text"]


def test_wrong_input_is_refused_before_anything_is_sent(perkamo: Perkamo, sandbox: Sandbox) -> None:
    """A blank id, no key: one line each; catches an id that reaches the service."""
    blank = perkamo("check", "--write", " ")
    dots = perkamo("check", "--write", "..")
    keyless = perkamo("check", PERKAMO_SECRET_KEY="")

    assert (blank.returncode, dots.returncode, keyless.returncode) == (3, 3, 1)
    assert "must not be blank" in blank.stderr
    assert "PERKAMO_SECRET_KEY" in keyless.stderr
    assert sandbox.requests == ()


def test_a_sandbox_answers_like_what_was_saved(perkamo: Perkamo, sandbox: Sandbox, tmp_path: Path) -> None:
    """Check --save, then sandbox --like: the second check finds the same; catches a file that nobody can use."""
    del sandbox
    dialect = {"customer.perks": "texts", "batch.failed_item": "error object", "program.usage": "absent"}
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    with Sandbox(dialect=dialect) as service:
        target = {"PERKAMO_SECRET_KEY": service.api_key, "PERKAMO_BASE_URL": service.base_url}
        perkamo("check", "--write", CUSTOMER, "--save", str(first), **target)

    process = subprocess.Popen(
        [*COMMAND, "sandbox", "--port", "0", "--json", "--like", str(first)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = ""
        while not lines.rstrip().endswith("}"):
            lines += process.stdout.readline()
        started = json.loads(lines)
        target = {"PERKAMO_SECRET_KEY": started["server_key"], "PERKAMO_BASE_URL": started["base_url"]}
        perkamo("check", "--write", CUSTOMER, "--save", str(second), **target)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert json.loads(first.read_text())["dialect"] == json.loads(second.read_text())["dialect"] == dialect


@pytest.mark.sample(2)
@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"dialect": {"customer.perks": "nothing"}}'])
def test_a_file_that_check_did_not_write_is_refused(perkamo: Perkamo, tmp_path: Path, text: str) -> None:
    """One line that names the file or the fact; catches a sandbox that silently answers as ever."""
    file = tmp_path / "service.json"
    file.write_text(text)

    shown = perkamo("sandbox", "--port", "0", "--like", str(file))

    assert shown.returncode == 1
    assert shown.stdout == ""
    assert "service.json" in shown.stderr or "customer.perks" in shown.stderr
