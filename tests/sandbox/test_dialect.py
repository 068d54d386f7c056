"""dialect: what can be chosen, and what is refused."""

import pytest

from perkamo.contract import FACTS
from perkamo.sandbox import DialectError, Sandbox, shapes
from perkamo.sandbox.dialect import CHOICES
from tests.sandbox.wire import Sender


@pytest.mark.parametrize(
    ("dialect", "words"),
    [
        ({"customer.perk": "texts"}, "did you mean customer.perks?"),
        ({"result.applied": "text"}, "can't be chosen"),
        ({"nonsense": "texts"}, "there are customer.user_id"),
        ({"customer.perks": "text"}, "it takes map, null, objects with translated names, texts"),
        ({"customer.perks": 7}, "can't be 7"),
    ],
)
def test_what_can_not_be_chosen_is_refused_with_what_can(dialect: dict[str, str], words: str) -> None:
    """The error names what there is; catches a misspelt name that changes nothing and passes every test."""
    with pytest.raises(DialectError) as caught:
        Sandbox(dialect=dialect)

    assert words in str(caught.value)


def test_a_dialect_outlives_a_reset() -> None:
    """Reset forgets what requests brought, and not how the service speaks; catches a test that passes by accident."""
    with Sandbox(dialect={"program.metrics": "absent"}) as sandbox:
        sandbox.reset()
        sandbox.renew()
        sender = Sender(sandbox)
        answer = sender.get("/v1/program")
        sender.close()

    assert "metrics" not in answer.json


def test_every_shape_is_one_of_the_table() -> None:
    """The functions and the table name the same; catches an alternative that is told and does nothing."""
    tables = (shapes.CUSTOMER, shapes.CUSTOMER_ANSWER, shapes.PROGRAM)
    for name, alternatives in ((name, ways) for table in tables for name, ways in table.items()):
        assert set(alternatives) | {"null"} >= set(FACTS[name].alternatives) >= set(alternatives)
    assert {*shapes.FAILED_ITEM, "refused whole", "unexplained"} == set(CHOICES["batch.failed_item"])
    assert {*shapes.ERROR, "empty", "text"} == set(CHOICES["error.shape"])
