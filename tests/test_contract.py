"""contract: the one table of what is published, what is older and what is assumed."""

from perkamo.contract import FACTS
from perkamo.sandbox import Sandbox


def test_every_fact_has_a_name_a_mark_and_a_source() -> None:
    """Names and behaviours tell rows apart, and each says where it comes from; catches a row that repeats another."""
    assert {fact.known for fact in FACTS.values()} == {"published", "older", "assumed"}
    assert all(name == fact.name and fact.behaviour and fact.source for name, fact in FACTS.items())
    assert len({fact.behaviour for fact in FACTS.values()}) == len(FACTS)


def test_what_is_published_has_no_alternative() -> None:
    """A sandbox that answers otherwise than published would teach a client wrong; catches such a switch."""
    assert {fact.name for fact in FACTS.values() if fact.alternatives and fact.known == "published"} == set()


def test_the_sandbox_reads_the_same_table() -> None:
    """What ``fidelity`` tells is what ``decoding`` goes by; catches a second list."""
    assert Sandbox().fidelity() == tuple(FACTS.values())
