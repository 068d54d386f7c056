"""What of the sandbox's behaviour is published and what is assumed: one row for each fact of the table."""

from typing import Final, TypeAlias

from perkamo.contract import FACTS, Fact
from perkamo.sandbox.messages import JsonObject

Fidelity: TypeAlias = Fact

FIDELITY: Final = tuple(FACTS.values())


def fidelity_json(row: Fidelity) -> JsonObject:
    """Return a row as ``GET /_sandbox/fidelity`` shows it."""
    return {
        "name": row.name,
        "behaviour": row.behaviour,
        "known": row.known,
        "source": row.source,
        "alternatives": [*row.alternatives],
    }
