"""``perkamo program`` and ``perkamo catalog``."""

import json

from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.shop import SHOP_PROGRAM
from tests.cli.conftest import Perkamo

RULES = """\
EVENT                  EARNS                          FROM CONTEXT   LABEL
user.registered        50 points                                     Created an account
purchase.completed     {{amount}} / 100 points        amount         Bought something
purchase.refunded      -{{amount}} / 100 points       amount         Sent something back
review.created         20 points                                     Wrote a review
review.created         1 star                                        Wrote a review (star)
referral.completed     200 points                                    Brought a friend
newsletter.subscribed  10 points                                     Subscribed to the newsletter
cart.item_added        {{item.quantity}} * 0.5 stars  item.quantity  Put an item into the cart
"""

REST = """\

name Sandbox shop
wallets
  - key points  name Points
  - key stars  name Stars
levels
  wallet points
  steps
    - level 1  name Bronze  at 0
    - level 2  name Silver  at 100
    - level 3  name Gold  at 500
    - level 4  name Platinum  at 2000
perks
  - key welcome_member  name Welcome member  unlockAt (wallet points  balance 50)
"""


def serve(sandbox: Sandbox, program: object) -> None:
    """Let the next ``GET /v1/program`` answer with this."""
    sandbox.faults.next("GET /v1/program", Status(200, {"content-type": "application/json"}, json.dumps(program)))


def test_the_catalog_is_a_table_of_what_earns(here: Perkamo) -> None:
    """Event, reward, the facts that formulas read, and label."""
    done = here("catalog")

    assert (done.stdout, done.stderr, done.returncode) == (RULES, "", 0)


def test_the_catalog_as_json_is_the_list_of_rules(here: Perkamo) -> None:
    """As the service has them."""
    done = here("catalog", "--json")

    assert json.loads(done.stdout) == SHOP_PROGRAM["earningRules"]


def test_the_program_is_shown_whole(here: Perkamo) -> None:
    """Rules as a table, everything else, whose shape is unpublished, as an outline."""
    done = here("program")

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith(RULES + REST)
    assert done.stdout.endswith("metrics events 0  customers 0\nusage events 0  customers 0\n")


def test_the_program_as_json_serves_a_sandbox(here: Perkamo) -> None:
    """What is printed can be given to ``perkamo sandbox --program``, as the help shows."""
    done = here("program", "--json")

    with Sandbox(done.stdout) as copy:
        assert copy.base_url
    assert json.loads(done.stdout)["blueprint"]["earningRules"] == SHOP_PROGRAM["earningRules"]


def test_a_program_of_another_shape_is_shown_too(sandbox: Sandbox, here: Perkamo) -> None:
    """Only the rules' event is confirmed: any other shape, missing or odd, is no reason to fail."""
    rules = [{"event": "a"}, {"event": "b", "reward": "10 * {{x}}"}, {"event": "c\x1b[2J", "reward": {"formula": [1]}}]
    serve(
        sandbox,
        {"blueprint": {"earningRules": rules, "odd": [[], {}, [1, {"a": {"b": {"c": {"d": [1]}}}}]]}, "n": None},
    )

    done = here("program")

    assert (done.stderr, done.returncode) == ("", 0)
    assert "b      10 * {{x}}  x\n" in done.stdout
    assert "c?[2J  [1]\n" in done.stdout
    assert done.stdout.endswith(
        "odd\n  - []\n  - {}\n  -\n    - 1\n    -\n      a\n        b\n          c d [1]\nn null\n"
    )


def test_a_space_without_rules_is_reported(sandbox: Sandbox, here: Perkamo) -> None:
    """A sentence, an empty JSON list, and no Python without events."""
    for _ in range(3):
        serve(sandbox, {})

    text, document, module = (here("catalog", *words) for words in ([], ["--json"], ["--python"]))

    assert (text.stdout, text.returncode) == ("The program has no earning rules.\n", 0)
    assert (json.loads(document.stdout), document.returncode) == ([], 0)
    assert (module.stdout, module.returncode) == ("", 3)
    assert module.stderr == "perkamo catalog: the program has no earning rules, so there is nothing to write.\n"
