"""``perkamo identify`` and ``perkamo customer``."""

import json

from perkamo.sandbox import Sandbox
from tests.cli.conftest import Perkamo

CUSTOMER = """\
customer  customer_123
level     1 [##########..........] 50 of 100 points
wallet    50 points
perk      Welcome member (perk, welcome_member)
trait     plan = premium
trait     name = \u017dofie?[2J
"""


def test_identify_sends_traits_and_says_how_many(sandbox: Sandbox, here: Perkamo) -> None:
    """Pairs and JSON come together; the text repeats no trait."""
    done = here("identify", "customer_123", "plan=premium", "--traits", '{"since": 2019}')

    assert (done.stdout, done.stderr, done.returncode) == ("Identified, with 2 traits.\n", "", 0)
    assert sandbox.customer("customer_123").traits == {"plan": "premium", "since": 2019}


def test_identify_prints_the_answer_as_json(here: Perkamo) -> None:
    """The answer's shape is unpublished, so it is printed as it came."""
    done = here("identify", "customer_123", "plan=premium", "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["user_id"] == "customer_123"


def test_a_customer_reads_as_a_table_that_cannot_steer_the_terminal(here: Perkamo) -> None:
    """Wallets, level, perks and traits, a line each; control characters are shown as question marks."""
    here("identify", "customer_123", "plan=premium", "name=\u017dofie\x1b[2J")
    here("emit", "customer_123", "user.registered")

    done = here("customer", "customer_123")

    assert (done.stdout, done.stderr, done.returncode) == (CUSTOMER, "", 0)


def test_a_customer_as_json_is_what_the_service_answered(sandbox: Sandbox, here: Perkamo) -> None:
    """One document, readable where the output is UTF-8."""
    here("identify", "customer_123", "name=\u017dofie")

    done = here("customer", "customer_123", "--json")

    assert json.loads(done.stdout) == sandbox.customer_json("customer_123")
    assert "\u017dofie" in done.stdout


def test_an_output_in_ascii_loses_nothing(sandbox: Sandbox, here: Perkamo, perkamo: Perkamo) -> None:
    """A terminal without UTF-8 gets escapes, and JSON stays JSON; nothing fails."""
    here("identify", "customer_123", "name=\u017dofie")
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}

    text = perkamo("customer", "customer_123", **ascii_only)
    document = perkamo("customer", "customer_123", "--json", **ascii_only)

    assert "name = \\u017dofie" in text.stdout
    assert json.loads(document.stdout) == sandbox.customer_json("customer_123")
    assert (text.returncode, document.returncode) == (0, 0)


def test_an_unknown_customer_reads_as_an_empty_one(here: Perkamo) -> None:
    """Nothing was ever sent for them: no wallets, no perks, exit code 0 (assumed of the service)."""
    done = here("customer", "nobody_yet")

    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "customer  nobody_yet"
    assert done.stdout.endswith("wallet    none\nperk      none\n")


def test_a_customer_id_that_is_a_direction_is_refused(sandbox: Sandbox, here: Perkamo) -> None:
    """``..`` would lead to another endpoint: exit code 3, and nothing is sent."""
    done = here("customer", "..")

    assert (done.returncode, sandbox.requests) == (3, ())
    assert done.stderr.startswith("perkamo customer: user_id must not be . or ..")
