"""How a run ended, and how two runs differ."""

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
    """The state of the sandbox at the end of a run.

    Attributes:
        customers: The customers, in the order of their first request.
        events: The applied events, oldest first.
        requests: The requests.
    """

    customers: Mapping[str, SandboxCustomer]
    events: tuple[SandboxEvent, ...]
    requests: tuple[RequestRecord, ...]


def take_outcome(sandbox: Sandbox) -> Outcome:
    """Return the current state of a sandbox."""
    return Outcome({customer.user_id: customer for customer in sandbox.customers()}, sandbox.events(), sandbox.requests)


def differences(expected: Outcome, got: Outcome) -> list[str]:
    """Return how the end of a run differs from that of the run without faults.

    Customers are compared by id or, if a flow makes new ids in each run, in the order of their first request. Events
    are compared by how often each customer had each one. Transaction ids, contexts and the values of traits may differ
    between runs.

    Args:
        expected: The end of the run without faults.
        got: The end of the other run.

    Returns:
        A message for each difference, of one or more lines; none if there is no difference.
    """
    names = _same_customers(list(expected.customers), list(got.customers))
    found = list(_of_events(expected, got, names))
    for user_id, customer in expected.customers.items():
        found += _of_customer(customer, got.customers.get(names.get(user_id, user_id)))
    known = {names.get(user_id, user_id) for user_id in expected.customers}
    found += [
        f"customer {user_id!r}: does not exist in the run without faults"
        for user_id in got.customers
        if user_id not in known
    ]
    return found


def _same_customers(expected: list[str], got: list[str]) -> dict[str, str]:
    """Match the customers of the other run with those of the run without faults."""
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
