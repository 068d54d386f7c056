"""The history of all customers: events that counted and events that did not, redemptions and traits.

The event log for tests contains applied events only. The page shows the others, too, and why an event earned nothing.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Literal, TypeAlias, cast

from attrs import evolve, field, frozen

from perkamo.sandbox.checks import EventInput, RedeemInput
from perkamo.sandbox.messages import Json, JsonObject
from perkamo.sandbox.program import Program

MAX_ENTRIES: Final = 100_000

Kind: TypeAlias = Literal["event", "duplicate", "redeemed", "identified"]
_MISSING: Final = re.compile(r"context\.(\S+) (is .*)")


@frozen
class Earned:
    """The effect of an entry on a customer.

    Attributes:
        delta: The amounts, by wallet.
        balances: The balance of every wallet afterwards.
        level: The level afterwards, or None.
        unlocked: The names of the perks and achievements that it unlocked.
    """

    delta: Mapping[str, int | float] = field(factory=dict[str, int | float])
    balances: Mapping[str, int | float] = field(factory=dict[str, int | float])
    level: int | None = None
    unlocked: tuple[str, ...] = ()


@frozen
class FeedEntry:
    """One entry of the history.

    Attributes:
        number: 1 for the first since the last reset.
        kind: Its kind.
        user_id: The customer.
        event: The event key, or the reward's.
        transaction_id: The transaction id; empty for traits.
        context: The context, or the traits as they were sent.
        time: When, in Unix seconds of the sandbox's clock.
        earned: Its effect.
        occurred_at: As it was sent, or None.
        first: For a duplicate, the number of the entry that counted; None if that is no longer kept.
        why: Why it earned nothing; empty if it earned something.
    """

    number: int
    kind: Kind
    user_id: str = field(repr=False)
    event: str
    transaction_id: str = field(repr=False)
    context: Mapping[str, Json] = field(repr=False)
    time: float
    earned: Earned = Earned()
    occurred_at: str | None = None
    first: int | None = None
    why: str = ""


class Feed:
    """Keeps the last 100,000 entries. Use with the sandbox locked."""

    def __init__(self) -> None:
        self._entries: deque[FeedEntry] = deque(maxlen=MAX_ENTRIES)
        self._firsts: dict[str, int] = {}
        self.total: int = 0
        """How many there were since the last reset, kept or not."""

    def reset(self) -> None:
        """Forget all."""
        self._entries.clear()
        self._firsts.clear()
        self.total = 0

    def applied(
        self, event: EventInput, result: JsonObject, notes: Sequence[str], program: Program, now: float
    ) -> None:
        """Add an event, or a repetition of one.

        Args:
            event: As it came.
            result: The ledger's result.
            notes: The ledger's notes.
            program: The program.
            now: The time in Unix seconds.
        """
        entry = FeedEntry(
            number=self.total + 1,
            kind="duplicate" if result["duplicate"] else "event",
            user_id=event.user_id,
            event=event.event,
            transaction_id=event.transaction_id,
            context=event.context,
            time=now,
            occurred_at=event.occurred_at,
        )
        if result["duplicate"]:
            why = f"its transaction id was applied before{', with another body' if notes else ''}"
            self._append(evolve(entry, first=self._firsts.get(event.transaction_id), why=why))
        else:
            self._append(
                evolve(
                    entry,
                    earned=_earned(result),
                    why="" if result["delta"] else _why(event.event, notes, program),
                )
            )
            self._firsts[event.transaction_id] = self.total

    def redeemed(self, wish: RedeemInput, result: JsonObject, now: float) -> None:
        """Add a redemption, unless it is a repetition."""
        if not result["duplicate"]:
            number, earned = self.total + 1, _earned(result)
            entry = FeedEntry(number, "redeemed", wish.user_id, wish.reward, wish.transaction_id, {}, now, earned)
            self._append(entry)

    def identified(self, user_id: str, traits: JsonObject, now: float) -> None:
        """Add traits."""
        self._append(FeedEntry(self.total + 1, "identified", user_id, "identify", "", traits, now))

    def after(self, number: int) -> Iterator[FeedEntry]:
        """Return the kept entries after a number, oldest first."""
        first = self.total - len(self._entries)
        return islice(self._entries, max(number - first, 0), None)

    def newest(self) -> Iterator[FeedEntry]:
        """Return the kept entries, the newest first."""
        return reversed(self._entries)

    def get(self, number: int) -> FeedEntry | None:
        """Return the entry with a number; None if it is not kept."""
        return next((entry for entry in self.after(number - 1) if entry.number == number), None)

    def _append(self, entry: FeedEntry) -> None:
        if len(self._entries) == MAX_ENTRIES:
            self._firsts.pop(self._entries[0].transaction_id, None)
        self._entries.append(entry)
        self.total += 1


def _earned(result: JsonObject) -> Earned:
    delta = cast("list[dict[str, int | float]]", result["delta"])
    level = cast("dict[str, int] | None", result["level"])
    unlocked = cast("list[dict[str, str]]", result["unlocked"])
    return Earned(
        {str(row["wallet"]): row["amount"] for row in delta},
        cast("dict[str, int | float]", result["wallet_state"]),
        None if level is None else level["level"],
        tuple(item["name"] for item in unlocked),
    )


def _why(event: str, notes: Sequence[str], program: Program) -> str:
    """Return why an event earned nothing."""
    if not any(rule.event == event for rule in program.rules):
        return "no rule names this event"
    reasons = [note.partition("earned nothing: ")[2] for note in notes if "earned nothing: " in note]
    causes = [_MISSING.sub(r"the formula reads \1, which \2", reason) for reason in reasons]
    return "; ".join(causes) or "its rules give 0"
