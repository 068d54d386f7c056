"""Compares the events that a test expects with those that were applied. Pure functions.

A failure shows the nearest events. Its messages contain ids and contexts, because these are the test's own.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, cast

from attrs import field, frozen

from perkamo.sandbox.ledger import SandboxEvent
from perkamo.sandbox.requestlog import RequestRecord

MAX_NEAREST: Final = 3
MAX_TEXT: Final = 200
"""How many characters of a value are shown."""
_EVENT_ROUTES: Final = ("POST /v1/events", "POST /v1/events:batch")


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


_NOTHING: Final = _Nothing()


@frozen
class _Difference:
    path: str
    expected: object = field(repr=False)
    got: object = field(repr=False)

    def __str__(self) -> str:
        return f"{self.path}: expected {_short(self.expected)}, got {_short(self.got)}"


@frozen
class Expected:
    """The event that a test expects; None means any value.

    Attributes:
        event: The event key.
        user_id: The customer.
        transaction_id: The transaction id.
        context: Fields that the context must have, in nested objects too. Lists are compared item by item.
    """

    event: str
    user_id: str | None = field(default=None, repr=False)
    transaction_id: str | None = field(default=None, repr=False)
    context: Mapping[str, object] | None = field(default=None, repr=False)

    def differences(self, got: SandboxEvent) -> list[_Difference]:
        """Return the differences of an event."""
        wanted: dict[str, object] = {"event": self.event, "user_id": self.user_id}
        wanted |= {"transaction_id": self.transaction_id, "context": self.context}
        return [
            difference
            for name, value in wanted.items()
            if value is not None
            for difference in _differences(name, value, getattr(got, name))
        ]

    def __str__(self) -> str:
        named = {"user_id": self.user_id, "transaction_id": self.transaction_id, "context": self.context}
        return _line(self.event, {name: value for name, value in named.items() if value is not None})


def problem(
    wanted: Expected, times: int | None, events: Sequence[SandboxEvent], requests: Iterable[RequestRecord]
) -> str | None:
    """Return what is wrong with the events, or None.

    Args:
        wanted: The expected event.
        times: How often exactly; None for once or more often.
        events: The applied events, oldest first.
        requests: All requests: failed ones may be the reason.

    Returns:
        None if the events are as expected; otherwise a message whose first line is a summary.

    Raises:
        ValueError: times is below 0.
    """
    if times is not None and times < 0:
        raise ValueError("times must be 0 or more, or None for once or more often")
    compared = [(number, event, wanted.differences(event)) for number, event in enumerate(events, 1)]
    found = [(number, event) for number, event, differences in compared if not differences]
    if (times is None and found) or len(found) == times:
        return None
    often = {None: "at least 1", 0: "none"}.get(times, f"exactly {times}")
    head = f"{wanted.event}: found {len(found)}, expected {often}"
    lines = [f"expected {often}: {wanted}"]
    lines += [f"found event {number}: {_shown(event)}" for number, event in found]
    if times is None or len(found) < times:
        # Another event counts double: a wrong field of the right event is the more likely mistake.
        others = sorted(
            (one for one in compared if one[2]),
            key=lambda one: (len(one[2]) + (one[2][0].path == "event"), -one[0]),
        )
        if others:
            head += f"; the nearest differs in {', '.join(difference.path for difference in others[0][2])}"
        elif not events:
            head += "; no event was applied"
        for number, event, differences in others[:MAX_NEAREST]:
            lines.append(f"nearest, event {number} of {len(events)}: {_shown(event)}")
            lines += [f"    {difference}" for difference in differences]
        lines += [f"failed: {text}" for text in _failed(requests)]
    return "\n  ".join([head, *lines])


def _differences(path: str, expected: object, got: object) -> Iterator[_Difference]:
    fields, has = _fields(expected), _fields(got)
    wants, items = _items(expected), _items(got)
    if fields is not None and has is not None:
        for key, value in fields.items():
            yield from _differences(f"{path}.{key}", value, has.get(key, _NOTHING))
    elif wants is not None and items is not None and len(wants) == len(items):
        for index, (value, item) in enumerate(zip(wants, items, strict=True)):
            yield from _differences(f"{path}[{index}]", value, item)
    elif expected != got or isinstance(expected, bool) != isinstance(got, bool):
        yield _Difference(path, expected, got)


def _fields(value: object) -> Mapping[object, object] | None:
    return cast("Mapping[object, object]", value) if isinstance(value, Mapping) else None


def _items(value: object) -> Sequence[object] | None:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else None


def _shown(event: SandboxEvent) -> str:
    named = {"user_id": event.user_id, "transaction_id": event.transaction_id, "context": event.context}
    return _line(event.event, named)


def _line(event: str, named: Mapping[str, object]) -> str:
    return " ".join([event, *(f"{name}={_short(value)}" for name, value in named.items())])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _failed(requests: Iterable[RequestRecord]) -> Iterator[str]:
    """Name the requests for events that failed, because of which an event may be missing."""
    failed = Counter(
        (record.route, record.status or "without an answer", f", by the fault {record.fault}" if record.fault else "")
        for record in requests
        if record.route in _EVENT_ROUTES and (record.status is None or record.status >= 300)
    )
    for (route, status, why), count in failed.items():
        yield f"{count} x {route} {status}{why}"
