"""signing: the vectors published with the official clients, and ours that were cross-checked."""

import json
from pathlib import Path

import pytest

from perkamo.signing import sign

VECTORS = json.loads((Path(__file__).parent / "tables" / "signature_vectors.json").read_text("utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{n}: {vector['origin']}" for n, vector in enumerate(VECTORS)])
def test_a_signature_matches_its_vector(vector: dict[str, str]) -> None:
    """The signature of each vector comes out to the letter; catches any change of the signed text."""
    signature = sign(vector["api_key"], vector["timestamp"], vector["method"], vector["path"], vector["body"].encode())

    assert signature == vector["signature"]


@pytest.mark.parametrize("part", range(5))
def test_every_part_is_bound_by_the_signature(part: int) -> None:
    """Changing key, timestamp, method, path or body changes the signature; catches a part left out of the text."""
    parts = ["sk_test", "1700000000", "POST", "/v1/events", "{}"]
    key, timestamp, method, path, body = (text + "1" if n == part else text for n, text in enumerate(parts))

    changed = sign(key, timestamp, method, path, body.encode())

    assert changed != sign("sk_test", "1700000000", "POST", "/v1/events", b"{}")
