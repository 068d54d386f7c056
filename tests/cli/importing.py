"""What the tests of the import share."""

from pathlib import Path


def write(path: Path, name: str, number: int, *, broken: tuple[int, ...] = ()) -> None:
    """Write a file of events whose transaction ids begin with a name; some lines are no events."""
    line = '{"user_id": "u", "event": "review.created", "transaction_id": "%s_%d"}\n'
    path.write_text("".join("nonsense\n" if one in broken else line % (name, one) for one in range(number)))
