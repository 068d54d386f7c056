"""What the service answers: values with typed fields for what is known, and ``.raw`` for all the rest.

**Strict where it is published, patient where we guessed.** A *published* field that is missing or of the wrong type is
an error, because the answer can't be trusted. A field that is *older* (published for an earlier version) or *assumed*
never makes an answer fail: what can't be read as its type is None, or the empty collection, stays in ``.raw``, and is
logged once as a warning, without its value. Each attribute says which it is; the table is in
``perkamo.contract``. Inside an unpublished field nothing is insisted on, whatever it is elsewhere.

A field that this client does not know never breaks it. Reprs leave out what may be personal data or secret: ids,
traits, tokens and the raw answer.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal

from attrs import Factory, field, frozen

from perkamo.encoding.encode import JSONValue
from perkamo.encoding.serializable import Serializable
from perkamo.errors import PerkamoEventError, RateLimit
from perkamo.redaction import clean


@frozen
class ResponseMeta(Serializable):
    """How an answer came about.

    Attributes:
        status: The HTTP status, 2xx.
        request_id: The request id to quote to Perkamo's support, or None.
        rate_limit: The rate limit as the answer stated it.
        attempts: How many requests the call took. After a retry, an event may read as ``duplicate`` although this very
            call applied it: look at ``accepted``.
        seconds: How long the whole call took, waits included.
    """

    status: int = 200
    request_id: str | None = None
    rate_limit: RateLimit = Factory(RateLimit)
    attempts: int = 1
    seconds: float = 0.0


_NO_META: Final = ResponseMeta()
_NOTHING: Final[Mapping[str, JSONValue]] = {}
"""Shared by all values that no answer has filled yet, because making new ones for each costs more than the value."""


@frozen
class Part(Serializable):
    """A part of an answer.

    Attributes:
        raw: The JSON object as it was answered, with every field that this client does not know.
    """

    raw: Mapping[str, JSONValue] = field(default=_NOTHING, eq=False, repr=False, kw_only=True)


@frozen
class Answer(Part):
    """A whole answer.

    Attributes:
        meta: Status, request id, rate limit and attempts of the answer.
    """

    meta: ResponseMeta = field(default=_NO_META, eq=False, repr=False, kw_only=True)


@frozen
class WalletDelta(Part):
    """One change of a balance.

    Attributes:
        wallet: The wallet's key (published).
        amount: What was added; negative when taken away (published).
    """

    wallet: str
    amount: float


@frozen
class Level(Part):
    """Where a customer stands on the ladder of levels.

    Attributes:
        wallet: The wallet that the level is counted on (published).
        level: The level reached (published).
        current: The wallet's balance (published).
        current_level_at: The balance at which this level began (published).
        progress: From 0 to 1 towards the next level (published).
        next_level_at: The balance at which the next one begins, or None at the top (published).
    """

    wallet: str
    level: int
    current: float
    current_level_at: float
    progress: float
    next_level_at: float | None = None


@frozen
class UnlockedPerk(Part):
    """A perk, achievement or reward that a customer has; the same in an event's result and, assumed, in a customer.

    Attributes:
        type: ``"perk"``, ``"achievement"`` or another kind, or None when not stated (published).
        key: The key in the program, or None when not stated (published).
        name: The name to show, or None when not stated (published).
    """

    type: str | None = None
    key: str | None = None
    name: str | None = None


@frozen
class EventIngestResponse(Answer):
    """What one event did.

    Attributes:
        applied: This request applied the event (published).
        duplicate: The transaction id had been applied before (published).
        delta: The changes of balances (published).
        leveled_up: A new level was reached (published).
        unlocked: What was unlocked (published).
        wallet_state: The balances afterwards, by wallet key (published).
        level: The level afterwards, or None (published).
    """

    applied: bool
    duplicate: bool
    delta: tuple[WalletDelta, ...]
    leveled_up: bool
    unlocked: tuple[UnlockedPerk, ...]
    wallet_state: Mapping[str, float]
    level: Level | None = None

    @property
    def accepted(self) -> bool:
        """Whether the event counts: applied now, or before under the same transaction id."""
        return self.applied or self.duplicate


@frozen
class EventFailure(Serializable):
    """Why there is no result for one event of a batch; the other events are not affected.

    Assumed throughout: the shape of a failed item is unpublished, so any shape is read for a reason in words.

    Attributes:
        error: The item's own code for the reason, such as ``"invalid_event"``, or None (assumed).
        message: The reason in the item's own words, or what can't be read of it; fit for a log (assumed).
        raw: The item as it was answered, whatever it is.
        outcome: ``"rejected"`` where the reason is one for which the same event will be refused again. ``"unknown"``
            everywhere else: sending the event again with the same transaction id is safe, and may work (assumed).
        meta: Status, request id, rate limit and attempts of the batch's answer.
    """

    error: str | None
    message: str
    raw: JSONValue = field(default=None, eq=False, repr=False)
    outcome: Literal["rejected", "unknown"] = field(default="unknown", kw_only=True)
    meta: ResponseMeta = field(default=_NO_META, eq=False, repr=False, kw_only=True)

    @property
    def accepted(self) -> bool:
        """Whether the item says that the event counts, although the rest of it can't be read."""
        raw = self.raw
        return isinstance(raw, dict) and (raw.get("applied") is True or raw.get("duplicate") is True)

    def to_error(self) -> PerkamoEventError:
        """Return the failure as an error that can be raised."""
        request = f" (request id {clean(self.meta.request_id)})" if self.meta.request_id else ""
        if self.accepted:
            text = f"The event was accepted, but {self.message}{request}. It need not be sent again."
        elif self.outcome == "rejected":
            text = f"The event was refused: {self.message}{request}. The same event will be refused again."
        else:
            again = "Sending it again with the same transaction id is safe."
            text = f"The event was not accepted: {self.message}{request}. {again}"
        return PerkamoEventError(
            text,
            code=self.error,
            accepted=self.accepted,
            request_id=self.meta.request_id,
            outcome=self.outcome,
            attempts=self.meta.attempts,
        )


@frozen
class BatchIngestResponse(Answer):
    """What each event of a batch did, in the order of the request.

    Attributes:
        results: For each event its result, or why there is none (published, except for the shape of a failed item).
            ``accepted`` says of both whether the event counts.
    """

    results: tuple[EventIngestResponse | EventFailure, ...]

    @property
    def failures(self) -> dict[int, EventFailure]:
        """The events without a result, by their position in the request."""
        return {place: one for place, one in enumerate(self.results) if isinstance(one, EventFailure)}

    def raise_for_failures(self) -> tuple[EventIngestResponse, ...]:
        """Return the results where there is one for each event.

        Raises:
            PerkamoEventError: An event has no result. The error is that of the first one, with a note of its
                position and of how many there are.
        """
        failures = self.failures
        if failures:
            place, failure = next(iter(failures.items()))
            error = failure.to_error()
            error.add_note(f"events[{place}], the first of {len(failures)} of {len(self.results)} without a result")
            raise error
        return tuple(one for one in self.results if isinstance(one, EventIngestResponse))


@frozen
class IdentifyResponse(Answer):
    """The answer to ``identify``, whose shape is unpublished: see ``raw``, which is empty when there was no body."""


@frozen
class Customer(Answer):
    """A customer as the service sees it now; more fields exist, see ``raw``.

    Attributes:
        user_id: The application's own id of the customer, or None when not stated (older).
        traits: Facts that were identified (older).
        wallets: Balances by wallet key (older).
        level: The level, or None (older).
        perks: What is unlocked (older).
        flags: What the service notes of the customer, as it came, or None (assumed).
    """

    user_id: str | None = field(default=None, repr=False)
    traits: Mapping[str, JSONValue] = field(factory=dict[str, JSONValue], repr=False)
    wallets: Mapping[str, float] = field(factory=dict[str, float])
    level: Level | None = None
    perks: tuple[UnlockedPerk, ...] = ()
    flags: JSONValue = field(default=None, repr=False)


@frozen
class ProgramEvent(Part):
    """One earning rule of the program. A rule without an event key is left out.

    Attributes:
        event: The event key that earns (published).
        label: The text to show, or None (assumed).
        reward: The fixed amount or the formula, as it came, or None (assumed).
    """

    event: str
    label: str | None = None
    reward: JSONValue = None


@frozen
class Blueprint(Part):
    """The program's configuration; ``raw`` has its wallets, rewards, perks and achievements.

    Attributes:
        earning_rules: The rules that events earn by (assumed, except for the event of each).
    """

    earning_rules: tuple[ProgramEvent, ...] = ()


@frozen
class Program(Answer):
    """The Space's active program.

    Attributes:
        blueprint: The program's configuration (assumed).
        metrics: What the service measures, as it came, or None (assumed).
        usage: How much of the plan is used, as it came, or None (assumed).
    """

    blueprint: Blueprint = Factory(Blueprint)
    metrics: JSONValue = None
    usage: JSONValue = None


@frozen
class BrowserToken(Answer):
    """A short-lived token for one customer's browser. The token itself stays out of the repr.

    Attributes:
        token: The token to hand to the browser (published).
        token_type: ``"Bearer"`` (published).
        expires_at: When it ends, in UTC (published).
        expires_in: For how many seconds it is good, from the answer on (published).
    """

    token: str = field(repr=False)
    token_type: str
    expires_at: datetime
    expires_in: int


@frozen
class ApiResponse(Serializable):
    """The answer to a ``request`` of an endpoint that has no method of its own.

    Attributes:
        raw: The parsed JSON, or None when the answer had no body.
        meta: Status, request id, rate limit and attempts of the answer.
    """

    raw: JSONValue = field(default=None, repr=False)
    meta: ResponseMeta = Factory(ResponseMeta)
