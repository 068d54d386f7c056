"""ids: what an id may be, and how a transaction's is made."""

import re

import pytest

from perkamo import Event, PerkamoValidationError, create_transaction_id


@pytest.mark.parametrize("text", [" u ", "é", "a/b", "%2F", "\u202e", "a" * 256, "😀" * 128, "\u6c49" * 256])
def test_an_id_is_kept_exactly_as_given(text: str) -> None:
    """Ids are neither trimmed nor normalised, up to 256 UTF-16 units; catches two spellings of one customer."""
    assert Event(text, "e").user_id == text


def test_transaction_ids_are_unique_and_carry_their_prefix() -> None:
    """tx_<uuid4> by default; catches a shared or unprefixed id."""
    made = {create_transaction_id() for _ in range(1000)} | {create_transaction_id("order")}

    assert len(made) == 1001
    assert all(
        re.fullmatch(r"(tx|order)_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one)
        for one in made
    )


@pytest.mark.parametrize("prefix", ["", " ", "a" * 220, "a\n"])
def test_a_prefix_that_makes_no_id_is_refused(prefix: str) -> None:
    """The made id always fits 256 characters; catches a prefix that pushes it over."""
    with pytest.raises(PerkamoValidationError) as caught:
        create_transaction_id(prefix)

    assert caught.value.field == "prefix"
