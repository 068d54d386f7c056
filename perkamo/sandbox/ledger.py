"""The state of a sandbox: customers, balances, perks, applied transactions and the event log.

Pure: time is an argument.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, TypeAlias

from attrs import Factory, define, field, frozen

from perkamo.sandbox.checks import EventInput, RedeemInput
from perkamo.sandbox.messages import Json, JsonObject
from perkamo.sandbox.program import Named, Program, Reward, as_number

MAX_LOGGED_EVENTS: Final = 100_000


@frozen
class SandboxEvent:
    """One applied event, as the event log keeps it.

    Attributes:
        user_id: The customer.
        event: The event key.
        transaction_id: The transaction id.
        context: The context as it was sent.
        occurred_at: As it was sent, or the sandbox's time if it was not sent.
        received_at: When the sandbox applied it, in Unix seconds of its clock.
        delta: What it earned, by wallet.
    """

    user_id: str = field(repr=False)
    event: str
    transaction_id: str = field(repr=False)
    context: Mapping[str, Json] = field(repr=False)
    occurred_at: str
    received_at: float
    delta: Mapping[str, int | float]


@frozen
class SandboxCustomer:
    """A customer at one moment.

    Attributes:
        user_id: The application's id.
        traits: The traits.
        wallets: The balances of every wallet that ever changed.
        level: The number of the level; None for an unknown customer, and in a program without levels.
        perks: The keys of unlocked perks, in the order of unlocking.
        achievements: The keys of achievements, in the order of unlocking.
    """

    user_id: str = field(repr=False)
    traits: Mapping[str, Json] = field(factory=dict[str, Json], repr=False)
    wallets: Mapping[str, int | float] = field(factory=dict[str, int | float])
    level: int | None = None
    perks: tuple[str, ...] = ()
    achievements: tuple[str, ...] = ()


@frozen
class CustomerChange:
    """A customer was changed.

    Attributes:
        serial: 1 for the first change since the last reset, then 2 and so on: the id of the change in a stream.
        user_id: The customer's id.
        customer: The customer as ``GET /v1/customer`` answers now.
    """

    serial: int
    user_id: str = field(repr=False)
    customer: JsonObject = field(repr=False)


@frozen
class LedgerCleared:
    """The sandbox was reset; serials begin again."""


Listener: TypeAlias = Callable[[CustomerChange | LedgerCleared], None]


@define
class _Customer:
    user_id: str
    traits: JsonObject = Factory(dict[str, Json])
    wallets: dict[str, float] = Factory(dict[str, float])
    counts: Counter[str] = Factory(Counter[str])
    unlocked: dict[tuple[str, str], Named] = Factory(dict[tuple[str, str], Named])

    def balances(self) -> dict[str, int | float]:
        return {wallet: as_number(balance) for wallet, balance in self.wallets.items()}


class Ledger:
    """The ledger of one Space.

    Args:
        program: The program.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._customers: dict[str, _Customer] = {}
        self._applied: dict[str, EventInput | RedeemInput] = {}
        self._log: deque[SandboxEvent] = deque(maxlen=MAX_LOGGED_EVENTS)
        self._listeners: list[Listener] = []
        self._serial = 0
        self.events_applied: int = 0

    def reset(self) -> None:
        """Forget everything but the program and the listeners, and notify these."""
        self._customers, self._applied = {}, {}
        self._log.clear()
        self._serial = self.events_applied = 0
        for listener in tuple(self._listeners):
            listener(LedgerCleared())

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call the listener after each change of a customer and each reset, until the returned function is called.

        It is called in the thread that made the change; it must return at once and not call back into the sandbox.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def identify(self, user_id: str, traits: JsonObject) -> JsonObject:
        """Merge traits into the customer's, one level deep, and return id and traits (both assumed)."""
        customer = self._customer(user_id)
        customer.traits = {**customer.traits, **traits}
        self._changed(customer)
        return {"user_id": user_id, "traits": customer.traits}

    def apply(self, event: EventInput, now: str, received_at: float) -> tuple[JsonObject, list[str]]:
        """Apply an event once.

        Args:
            event: The event.
            now: The time as text, for an event without a time.
            received_at: The time in Unix seconds.

        Returns:
            The event result, and notes for the request log.
        """
        if (before := self.applied(event)) is not None:
            return self._duplicate(event), _compare(before, event)
        customer = self._customer(event.user_id)
        level = self.program.level_number(customer.wallets)
        delta, notes = self.program.earn(event.event, event.context)
        for wallet, amount in delta.items():
            customer.wallets[wallet] = customer.wallets.get(wallet, 0.0) + amount
        customer.counts[event.event] += 1
        unlocked = self._unlock(customer)
        self._applied[self._key(event)] = event
        self.events_applied += 1
        shown = {wallet: as_number(amount) for wallet, amount in delta.items()}
        moment = event.occurred_at or now
        logged = SandboxEvent(
            event.user_id, event.event, event.transaction_id, event.context, moment, received_at, shown
        )
        self._log.append(logged)
        self._changed(customer)
        reached = self.program.level_number(customer.wallets)
        leveled_up = level is not None and reached is not None and reached > level
        return self._result(customer, delta=shown, leveled_up=leveled_up, unlocked=unlocked), notes

    def redeem(self, wish: RedeemInput, reward: Reward) -> tuple[JsonObject | None, list[str]]:
        """Take the reward's cost from a wallet, once; None if the balance is too small. The shape is assumed."""
        shown: JsonObject = {"reward": reward.blueprint()}
        if (before := self.applied(wish)) is not None:
            return {**shown, **self._duplicate(wish)}, _compare(before, wish)
        customer = self._customers.get(wish.user_id)
        balance = 0.0 if customer is None else customer.wallets.get(reward.wallet, 0.0)
        if customer is None or balance < reward.cost:
            return None, []
        customer.wallets[reward.wallet] = balance - reward.cost
        self._applied[self._key(wish)] = wish
        self._changed(customer)
        delta = {reward.wallet: as_number(-reward.cost)}
        return {**shown, **self._result(customer, delta=delta)}, []

    def applied(self, event: EventInput | RedeemInput) -> EventInput | RedeemInput | None:
        """Return the result of the same transaction id, if it was applied before, or None."""
        return self._applied.get(self._key(event))

    def knows(self, user_id: str) -> bool:
        """Return whether anything was ever sent for a customer."""
        return user_id in self._customers

    def customer_json(self, user_id: str) -> JsonObject:
        """Return a customer as ``GET /v1/customer`` answers; an unknown customer is an empty one."""
        customer = self._customers.get(user_id)
        found = customer or _Customer(user_id)
        kinds: dict[str, list[Json]] = {"perk": [], "achievement": []}
        for (kind, _), item in found.unlocked.items():
            kinds[kind].append({"type": kind, "key": item.key, "name": item.name})
        wallets: JsonObject = {**found.balances()}
        return {
            "user_id": user_id,
            "traits": found.traits,
            "wallets": wallets,
            "level": None if customer is None else self.program.level_state(customer.wallets),
            "perks": kinds["perk"],
            "achievements": kinds["achievement"],
        }

    def customer(self, user_id: str) -> SandboxCustomer:
        """Return a customer at this moment."""
        found = self._customers.get(user_id)
        if found is None:
            return SandboxCustomer(user_id)
        perks = tuple(key for kind, key in found.unlocked if kind == "perk")
        achievements = tuple(key for kind, key in found.unlocked if kind == "achievement")
        level = self.program.level_number(found.wallets)
        return SandboxCustomer(user_id, dict(found.traits), found.balances(), level, perks, achievements)

    @property
    def customer_count(self) -> int:
        """How many customers there are."""
        return len(self._customers)

    def user_ids(self, start: int = 0) -> Iterator[str]:
        """Return the ids of the customers from a position on, in the order of their first request."""
        return islice(self._customers, start, None)

    def newest_ids(self) -> Iterator[str]:
        """Return the ids of all customers, the newest first."""
        return reversed(self._customers)

    def events(self, user_id: str | None = None) -> tuple[SandboxEvent, ...]:
        """Return the applied events, oldest first, of one customer or of all; at most the last 100,000 are kept."""
        return tuple(event for event in self._log if user_id is None or event.user_id == user_id)

    def events_after(self, number: int) -> Iterator[tuple[int, SandboxEvent]]:
        """Return the kept events after a number, with their numbers, oldest first; a reset starts again at 1."""
        first = self.events_applied - len(self._log)
        return enumerate(islice(self._log, max(number - first, 0), None), max(number, first) + 1)

    def latest(self, count: int) -> tuple[SandboxEvent, ...]:
        """Return the last applied events, at most this many, oldest first."""
        return tuple(islice(reversed(self._log), count))[::-1]

    def _customer(self, user_id: str) -> _Customer:
        return self._customers.setdefault(user_id, _Customer(user_id))

    def _unlock(self, customer: _Customer) -> list[Json]:
        fresh: list[Json] = []
        for kind, item in self.program.unlocked_by(customer.wallets, customer.counts):
            if (kind, item.key) not in customer.unlocked:
                customer.unlocked[kind, item.key] = item
                fresh.append({"type": kind, "key": item.key, "name": item.name})
        return fresh

    def _changed(self, customer: _Customer) -> None:
        self._serial += 1
        if self._listeners:
            change = CustomerChange(self._serial, customer.user_id, self.customer_json(customer.user_id))
            for listener in tuple(self._listeners):
                listener(change)

    def _key(self, event: EventInput | RedeemInput) -> str:
        """Return the key that counts once: the transaction id, in the whole Space (assumed)."""
        return event.transaction_id

    def _duplicate(self, event: EventInput | RedeemInput) -> JsonObject:
        customer = self._customers.get(event.user_id) or _Customer(event.user_id)
        return self._result(customer, delta={}, duplicate=True)

    def _result(
        self,
        customer: _Customer,
        *,
        delta: Mapping[str, int | float],
        duplicate: bool = False,
        leveled_up: bool = False,
        unlocked: list[Json] | None = None,
    ) -> JsonObject:
        return {
            "applied": not duplicate,
            "duplicate": duplicate,
            "delta": [{"wallet": wallet, "amount": amount} for wallet, amount in delta.items()],
            "leveled_up": leveled_up,
            "unlocked": unlocked or [],
            "wallet_state": {**customer.balances()},
            "level": self.program.level_state(customer.wallets),
        }


def _compare(before: EventInput | RedeemInput, again: EventInput | RedeemInput) -> list[str]:
    if before == again:
        return []
    return ["this transaction id was applied before with another body; the service would ignore this one"]


def failed_result(message: str) -> JsonObject:
    """Return the result of a failed item of a batch: nothing applied, and the error. Its shape is assumed."""
    return {
        "applied": False,
        "duplicate": False,
        "delta": [],
        "leveled_up": False,
        "unlocked": [],
        "wallet_state": {},
        "level": None,
        "error": {"message": message},
    }
