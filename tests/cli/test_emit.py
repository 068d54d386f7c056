"""``perkamo emit``: what it sends, prints and refuses."""

import json
import re

import pytest

from perkamo.cli.main import main
from perkamo.sandbox import Reset, Sandbox, Status
from tests.cli.conftest import Perkamo

RESULT = """\
applied         yes
transaction id  order_1
earned          +12,900 points
wallets         12,900 points
level up        4 [####################] 12,900 of the top points
unlocked        Welcome member (perk, welcome_member)
unlocked        Free shipping (perk, free_shipping)
unlocked        Early access to sales (perk, early_access)
unlocked        Personal shopper (perk, personal_shopper)
unlocked        First purchase (achievement, first_purchase)
"""


def test_an_event_is_sent_and_what_it_did_is_shown(sandbox: Sandbox, here: Perkamo) -> None:
    """Facts keep their types; balances, level and what was unlocked are readable; exit code 0."""
    done = here(
        *("emit", "customer_123", "purchase.completed", "amount=1290000", "currency=CZK", "gift=true", "vat=null"),
        *('tags=["a"]', 'zip="01234"', "phone=+420123", "note=", "url=a=b", "name=NaN"),
        *("--transaction-id", "order_1", "--occurred-at", "2026-06-01T12:00:00+02:00"),
    )

    (event,) = sandbox.events()
    assert (done.stdout, done.stderr, done.returncode) == (RESULT, "", 0)
    assert (event.user_id, event.transaction_id) == ("customer_123", "order_1")
    assert event.occurred_at == "2026-06-01T10:00:00.000Z"
    assert event.context == {
        "amount": 1290000,
        "currency": "CZK",
        "gift": True,
        "vat": None,
        "tags": ["a"],
        "zip": "01234",
        "phone": "+420123",
        "note": "",
        "url": "a=b",
        "name": "NaN",
    }


def test_json_tells_the_transaction_id_and_the_whole_answer(sandbox: Sandbox, here: Perkamo) -> None:
    """One document, also for the random transaction id, which is the one that was sent."""
    done = here("emit", "customer_123", "review.created", "--json", "--context", '{"stars": 5}')

    shown = json.loads(done.stdout)
    (event,) = sandbox.events()
    assert (done.stderr, done.returncode) == ("", 0)
    assert (shown["accepted"], shown["transaction_id"]) == (True, event.transaction_id)
    assert shown["result"]["wallet_state"] == {"points": 20, "stars": 1}
    assert event.context == {"stars": 5}
    assert re.fullmatch("tx_[0-9a-f-]{36}", event.transaction_id)


@pytest.mark.parametrize(
    "words",
    [
        "customer_123 review.created --transaction-id t1 stars=5 text=good",
        "--transaction-id t1 customer_123 review.created stars=5 text=good",
        "customer_123 --transaction-id t1 review.created stars=5 --json text=good",
        "customer_123 review.created stars=5 --transaction-id=t1 text=good --json",
        "--json --transaction-id t1 -- customer_123 review.created stars=5 text=good",
        "customer_123 stars=5 review.created text=good --transaction-id t1",
        "customer_123 stars=5 --transaction-id t1 text=good review.created",
    ],
)
def test_options_and_facts_come_in_any_order(
    words: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Facts after an option count as much as those before; catches "unrecognized arguments"."""
    monkeypatch.setenv("PERKAMO_SECRET_KEY", sandbox.api_key)
    monkeypatch.setenv("PERKAMO_BASE_URL", sandbox.base_url)

    code = main(["emit", *words.split()])

    [event] = sandbox.events("customer_123")
    assert (code, capsys.readouterr().err) == (0, "")
    assert (event.transaction_id, event.context) == ("t1", {"stars": 5, "text": "good"})


def test_a_duplicate_is_a_success_that_says_so(here: Perkamo) -> None:
    """The second time earns nothing and ends with 0, because the event counts."""
    words = ("emit", "customer_123", "review.created", "--transaction-id", "review_1")
    here(*words)

    done = here(*words)

    assert done.returncode == 0
    assert "applied         before: this transaction id counts once" in done.stdout
    assert "earned          nothing" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--context", "{"], 2, "argument --context: the text is not JSON"),
        (["--context", "[1]"], 2, "argument --context: the text is not a JSON object"),
        (["--context", '{"a":1,"a":2}'], 2, "argument --context: the text has the same key twice in one object"),
        (["--context", "{\udcff}"], 2, "argument --context: the text is not UTF-8"),
        (["amount"], 2, "a fact is written key=value"),
        (["=1"], 2, "a fact is written key=value"),
        (["amount=1e999"], 2, "the value is a number that is too large"),
        (["amount=-1E+400"], 2, "the value is a number that is too large"),
        (["order=12345678901234567890"], 3, "send it as text, such as KEY='\"…\"'. Nothing was sent."),
        (['items=[{"price": 1]'], 2, "the value begins as JSON does but is not JSON"),
        (["a=1", "a=2"], 3, "one key was given twice. Nothing was sent."),
        (["a=1", "--context", '{"a": 1}'], 3, "one key was given twice. Nothing was sent."),
        (["level=2"], 3, "context.level is reserved"),
        (["name=\udcff"], 3, "Nothing was sent."),
        (["--occurred-at", "yesterday"], 3, "occurred_at must be ISO 8601"),
        (["--transaction-id", " "], 3, "transaction_id must not be blank"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    sandbox: Sandbox, here: Perkamo, words: list[str], code: int, reason: str
) -> None:
    """What can't be read is wrong usage, 2; what can't be sent is refused, 3; the last line says why."""
    done = here("emit", "customer_123", "purchase.completed", *words)

    last = done.stderr.splitlines()[-1]
    assert (done.returncode, done.stdout, sandbox.requests) == (code, "", ())
    assert last.startswith("perkamo emit: ")
    assert reason in last


@pytest.mark.parametrize("words", ["amount=5", "amount=5 currency", "amount=5 purchase.completed review.created"])
def test_a_fact_is_never_sent_as_an_event(sandbox: Sandbox, here: Perkamo, words: str) -> None:
    """Where no word, or more than one, can be the event; catches an event "amount=5", or "currency"."""
    done = here("emit", "customer_123", *words.split())

    assert (done.returncode, done.stdout, sandbox.requests) == (2, "", ())
    assert done.stderr.endswith("EVENT must come before the facts: USER EVENT KEY=VALUE\n")


def test_an_unknown_outcome_says_how_to_send_it_again(sandbox: Sandbox, here: Perkamo) -> None:
    """The random transaction id is told, because the same event under another one would earn twice."""
    sandbox.faults.next("POST /v1/events", Reset(after="apply"), times=3)
    failed = here("emit", "customer_123", "review.created")
    again = re.search(r"--transaction-id (tx_\S+)$", failed.stderr)
    assert again is not None

    done = here("emit", "customer_123", "review.created", "--transaction-id", again[1])

    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "applied         before" in done.stdout
    assert sandbox.customer("customer_123").wallets["points"] == 20


def test_an_event_that_the_service_does_not_take_ends_with_3(sandbox: Sandbox, here: Perkamo) -> None:
    """Neither applied nor a duplicate: shown as it is, with the request's id, and no success."""
    answer = {
        "applied": False,
        "duplicate": False,
        "delta": [],
        "leveled_up": False,
        "unlocked": [],
        "wallet_state": {},
    }
    headers = {"x-perkamo-request-id": "req_42", "content-type": "application/json"}
    sandbox.faults.next("POST /v1/events", Status(200, headers, json.dumps(answer)))

    done = here("emit", "customer_123", "review.created")

    assert done.returncode == 3
    assert done.stderr == "perkamo emit: the service did not apply the event (request id req_42).\n"
    assert "applied         no" in done.stdout
