"""A program: wallets, earning rules, levels, perks, achievements and rewards. Pure values and functions.

A program is written as the blueprint that ``GET /v1/program`` serves. Only ``earningRules[].event`` and its label and
reward (a fixed amount or a formula) are published; all other names are assumed.
"""

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from perkamo.sandbox.formula import Formula, FormulaValueError
from perkamo.sandbox.messages import Json, JsonObject

MAX_SAFE_INTEGER: Final = 2**53


@frozen
class Named:
    """An item with a key and a display name."""

    key: str
    name: str

    def blueprint(self) -> JsonObject:
        """Return it as the blueprint shows it."""
        return {"key": self.key, "name": self.name}


@frozen
class EarningRule:
    """A rule for an event: it earns a fixed amount, or the result of a formula over the event's context."""

    event: str
    label: str
    wallet: str
    reward: float | Formula

    def blueprint(self) -> JsonObject:
        """Return it as the blueprint shows it."""
        reward: JsonObject = {"wallet": self.wallet}
        if isinstance(self.reward, Formula):
            reward["formula"] = self.reward.text
        else:
            reward["amount"] = as_number(self.reward)
        return {"event": self.event, "label": self.label, "reward": reward}

    def earns(self, context: Mapping[str, Json]) -> float:
        """Return what one event earns; raise FormulaValueError if the formula has no result."""
        return self.reward.evaluate(context) if isinstance(self.reward, Formula) else self.reward


@frozen
class LevelStep:
    """A level and the balance from which it applies."""

    level: int
    name: str
    at: float


@frozen
class Levels:
    """The levels, all on one wallet, lowest first."""

    wallet: str
    steps: tuple[LevelStep, ...]

    def reached(self, balance: float) -> LevelStep:
        """Return the level that a balance gives; the lowest one for a balance below all of them."""
        return next((step for step in reversed(self.steps) if balance >= step.at), self.steps[0])

    def state(self, balance: float) -> JsonObject:
        """Return the level as event results and customers carry it (published)."""
        step = self.reached(balance)
        later = self.steps[self.steps.index(step) + 1 :]
        above = later[0].at if later else None
        progress = 1.0 if above is None else min(max((balance - step.at) / (above - step.at), 0.0), 1.0)
        return {
            "wallet": self.wallet,
            "level": step.level,
            "current": as_number(balance),
            "nextLevelAt": None if above is None else as_number(above),
            "currentLevelAt": as_number(step.at),
            "progress": as_number(progress),
        }

    def blueprint(self) -> JsonObject:
        """Return them as the blueprint shows them."""
        steps: list[Json] = [{"level": step.level, "name": step.name, "at": as_number(step.at)} for step in self.steps]
        return {"wallet": self.wallet, "steps": steps}


@frozen
class Perk(Named):
    """Unlocked once: at a level, or at a balance of a wallet. Stays unlocked."""

    level: int | None
    wallet: str
    balance: float

    def blueprint(self) -> JsonObject:
        """Return it as the blueprint shows it."""
        unlock: JsonObject = {"level": self.level}
        if self.level is None:
            unlock = {"wallet": self.wallet, "balance": as_number(self.balance)}
        return {**super().blueprint(), "unlockAt": unlock}

    def is_unlocked(self, wallets: Mapping[str, float], level: int | None) -> bool:
        """Return whether balances and level suffice."""
        if self.level is not None:
            return level is not None and level >= self.level
        return self.wallet in wallets and wallets[self.wallet] >= self.balance


@frozen
class Achievement(Named):
    """Unlocked once, when an event was applied this many times."""

    event: str
    count: int

    def blueprint(self) -> JsonObject:
        """Return it as the blueprint shows it."""
        return {**super().blueprint(), "event": self.event, "count": self.count}


@frozen
class Reward(Named):
    """Bought with the balance of a wallet."""

    wallet: str
    cost: float

    def blueprint(self) -> JsonObject:
        """Return it as the blueprint shows it."""
        return {**super().blueprint(), "wallet": self.wallet, "cost": as_number(self.cost)}


@frozen
class Program:
    """A whole program, checked: all keys in it exist."""

    name: str
    wallets: tuple[Named, ...]
    rules: tuple[EarningRule, ...]
    levels: Levels | None
    perks: tuple[Perk, ...]
    achievements: tuple[Achievement, ...]
    rewards: tuple[Reward, ...]

    def earn(self, event: str, context: Mapping[str, Json]) -> tuple[dict[str, float], list[str]]:
        """Return what an event earns, by wallet, and a note for each formula without a result."""
        earned: dict[str, float] = {}
        notes: list[str] = []
        for rule in self.rules:
            if rule.event != event:
                continue
            try:
                amount = rule.earns(context)
            except FormulaValueError as problem:
                notes.append(f"a rule on {event} earned nothing: {problem}")
            else:
                earned[rule.wallet] = earned.get(rule.wallet, 0.0) + amount
        return {wallet: amount for wallet, amount in earned.items() if amount}, notes

    def level_state(self, wallets: Mapping[str, float]) -> JsonObject | None:
        """Return the level that these balances give, or None in a program without levels."""
        return None if self.levels is None else self.levels.state(wallets.get(self.levels.wallet, 0.0))

    def level_number(self, wallets: Mapping[str, float]) -> int | None:
        """Return the number of that level."""
        return None if self.levels is None else self.levels.reached(wallets.get(self.levels.wallet, 0.0)).level

    def unlocked_by(self, wallets: Mapping[str, float], counts: Mapping[str, int]) -> list[tuple[str, Named]]:
        """Return everything that balances and event counts unlock, with its type, in the program's order."""
        level = self.level_number(wallets)
        perks = [("perk", perk) for perk in self.perks if perk.is_unlocked(wallets, level)]
        achieved = [item for item in self.achievements if counts.get(item.event, 0) >= item.count]
        return [*perks, *(("achievement", item) for item in achieved)]

    def blueprint(self) -> JsonObject:
        """Return the program as ``GET /v1/program`` serves it; reading it again gives an equal program."""
        return {
            "name": self.name,
            "wallets": [wallet.blueprint() for wallet in self.wallets],
            "earningRules": [rule.blueprint() for rule in self.rules],
            "levels": None if self.levels is None else self.levels.blueprint(),
            "perks": [perk.blueprint() for perk in self.perks],
            "achievements": [item.blueprint() for item in self.achievements],
            "rewards": [reward.blueprint() for reward in self.rewards],
        }


def as_number(value: float) -> int | float:
    """Return a number as JavaScript prints it: whole numbers without a fraction."""
    return int(value) if value.is_integer() and abs(value) < MAX_SAFE_INTEGER else value
