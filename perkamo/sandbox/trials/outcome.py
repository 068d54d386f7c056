"""How a run ended, and in what two of them differ."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from attrs import frozen

from perkamo.sandbox import assertions
from perkamo.sandbox.ledger import SandboxCustomer, SandboxEvent
from perkamo.sandbox.requestlog import RequestRecord
from perkamo.sandbox.sandbox import Sandbox


@frozen
class Outcome:
    """What is in the sandbox at the end of a run.

    Attributes:
        customers: The customers, in the order in which they came.
        events: The applied events, oldest first.
        requests: What was asked for.
    """

    customers: Mapping[str, SandboxCustomer]
    events: tuple[SandboxEvent, ...]
    requests: tuple[RequestRecord, ...]


def take_outcome(sandbox: Sandbox) -> Outcome:
    """Return how a sandbox stands now."""
    return Outcome({customer.user_id: customer for customer in sandbox.customers()}, sandbox.events(), sandbox.requests)


def differences(expected: Outcome, got: Outcome) -> list[str]:
    """Say in what a run ended differently from the undisturbed one.

    Customers are compared by id; where a flow makes new ids each time, in the order in which they came. Of events it is
    counted how often each customer had each one; their transaction ids and contexts may be new ones in each run, as may
    the values of traits.

    Args:
        expected: How the undisturbed run ended.
        got: How the other one ended.

    Returns:
        A message for each difference, of several lines where more is worth showing; nothing when all is the same.
    """
    names = _same_customers(list(expected.customers), list(got.customers))
    found = list(_of_events(expected, got, names))
    for user_id, customer in expected.customers.items():
        found += _of_customer(customer, got.customers.get(names.get(user_id, user_id)))
    known = {names.get(user_id, user_id) for user_id in expected.customers}
    found += [
        f"customer {user_id!r}: is not there in the undisturbed run"
        for user_id in got.customers
        if user_id not in known
    ]
    return found


def _same_customers(expected: list[str], got: list[str]) -> dict[str, str]:
    """Return which customer of the other run stands for which one of the undisturbed one."""
    both = set(expected) & set(got)
    only_expected = [user_id for user_id in expected if user_id not in both]
    only_got = [user_id for user_id in got if user_id not in both]
    return dict(zip(only_expected, only_got, strict=False))


def _of_events(expected: Outcome, got: Outcome, names: Mapping[str, str]) -> Iterator[str]:
    wanted = Counter((names.get(event.user_id, event.user_id), event.event) for event in expected.events)
    counted = Counter((event.user_id, event.event) for event in got.events)
    for user_id, event in dict.fromkeys((*wanted, *counted)):
        times = wanted[user_id, event]
        if times != counted[user_id, event]:
            yield assertions.problem(assertions.Expected(event, user_id), times, got.events, got.requests) or ""


def _of_customer(expected: SandboxCustomer, got: SandboxCustomer | None) -> Iterable[str]:
    where = f"customer {expected.user_id!r}"
    if got is None:
        return [f"{where}: is missing"]
    found = [
        f"{where}: wallets.{wallet}: expected {wanted}, got {balance}"
        for wallet in dict.fromkeys((*expected.wallets, *got.wallets))
        for wanted, balance in [(expected.wallets.get(wallet, 0), got.wallets.get(wallet, 0))]
        if not math.isclose(wanted, balance, abs_tol=1e-9)
    ]
    if expected.level != got.level:
        found.append(f"{where}: level: expected {expected.level}, got {got.level}")
    for name, wanted_keys, keys in (
        ("perks", expected.perks, got.perks),
        ("achievements", expected.achievements, got.achievements),
        ("traits", expected.traits, got.traits),
    ):
        if set(wanted_keys) != set(keys):
            found.append(f"{where}: {name}: expected {_listed(wanted_keys)}, got {_listed(keys)}")
    return found


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(keys) or "none"
