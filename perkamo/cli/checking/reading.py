"""Questions that change nothing: the program, an unknown customer, usage, and a wrong key."""

from functools import partial
from uuid import uuid4

from attrs import field, frozen

from perkamo.cli.checking import shapes
from perkamo.cli.checking.caller import Answer, Caller
from perkamo.cli.checking.findings import CONFIRMED, Findings
from perkamo.cli.checking.shapes import JsonObject
from perkamo.decoding.kinds import name_of
from perkamo.encoding.encode import JSONValue
from perkamo.signing import API_KEY_HEADER

STRANGER: str = f"perkamo_check_{uuid4().hex}"
"""An unknown customer."""


@frozen
class Plan:
    """The part of the program that other questions need.

    Attributes:
        rules: The earning rules that name an event.
        rewards: The keys of rewards that can be redeemed.
    """

    rules: list[JsonObject] = field(factory=list[JsonObject], repr=False)
    rewards: list[str] = field(factory=list[str], repr=False)


async def read_only(caller: Caller, findings: Findings, program: Answer) -> Plan:
    """Ask all questions that change nothing.

    Args:
        caller: Sends the requests.
        findings: Collects the findings.
        program: The program, which was read already.

    Returns:
        The part of the program that other questions need.
    """
    _headers(findings, program)
    _is_answered(findings, "GET /v1/program", program)
    plan = _program(findings, program.json) if program.is_json else Plan()
    for step in (_keys, _nobody, _usage, _prefix):
        await findings.attempt(partial(step, caller, findings))
    return plan


def read_customer(findings: Findings, answer: Answer) -> None:
    """Record the shape of a customer."""
    _is_answered(findings, "GET /v1/customer/{user_id}", answer)
    if not answer.is_json:
        return
    whole, customer = shapes.whole_customer(answer.json)
    findings.add("customer.object", whole)
    for name, question in shapes.CUSTOMER.items():
        findings.add(name, None if customer is None else question(customer), "this customer does not show it")


def _is_answered(findings: Findings, endpoint: str, answer: Answer) -> None:
    if not answer.is_json:
        findings.add("endpoints", f"{endpoint} is not answered with JSON")


def _headers(findings: Findings, answer: Answer) -> None:
    has_id = {"x-perkamo-request-id", "x-request-id"} & answer.headers.keys()
    findings.expect("error.request_id", has_id, "absent")
    limit = answer.headers.get("ratelimit-limit") or answer.headers.get("x-ratelimit-limit")
    findings.add("rate_limit", {None: "absent", "100000": CONFIRMED}.get(limit, "another limit"))


def _program(findings: Findings, value: JSONValue) -> Plan:
    whole, program = shapes.whole_program(value)
    findings.add("program.object", whole)
    if program is None:
        return Plan()
    findings.add("program.metrics", _member(program, "metrics", {"a list": "list"}))
    findings.add("program.usage", _member(program, "usage", {"an integer": "number", "a number": "number"}))
    shape, blueprint = shapes.blueprint(program)
    findings.add("program.blueprint", shape)
    if blueprint is None:
        return Plan()
    rest = {"wallets", "levels", "perks", "achievements", "rewards"} & blueprint.keys()
    findings.expect("blueprint.rest", rest, "absent")
    rules_shape, rules = shapes.rules(blueprint)
    findings.add("blueprint.earningRules", rules_shape, "there are no rules")
    if rules_shape == CONFIRMED and not rules:
        findings.add("rule.event", "is missing, or not a text")
    if rules:
        findings.add("rule.event", CONFIRMED)
        findings.add("rule.formula", CONFIRMED if any(_earns(rule.get("reward")) for rule in rules) else None)
        findings.add("rule.label", _of_all([shapes.label(rule) for rule in rules]))
        findings.add("rule.reward", _of_all([shapes.reward(rule) for rule in rules]))
    return Plan(rules, _keys_of(blueprint.get("rewards")))


def _member(value: JsonObject, name: str, others: dict[str, str]) -> str:
    if name not in value:
        return "absent"
    inner = value[name]
    return CONFIRMED if isinstance(inner, dict) else others.get(name_of(inner), "has another shape")


def _of_all(answers: list[str]) -> str:
    return next((answer for answer in answers if answer != CONFIRMED), CONFIRMED)


def _earns(reward: JSONValue) -> bool:
    """Return whether there is an amount or a formula anywhere in a reward."""
    if isinstance(reward, dict):
        return any(_earns(inner) for inner in reward.values())
    return type(reward) in (int, float) or (isinstance(reward, str) and "{{" in reward)


def _keys_of(items: JSONValue) -> list[str]:
    if not isinstance(items, list):
        return []
    return [key for item in items if isinstance(item, dict) and isinstance(key := item.get("key"), str)]


async def _keys(caller: Caller, findings: Findings) -> None:
    without = await caller.get("/v1/program", headers={})
    findings.expect("request.key", without.refused, f"a request without a key is answered with {without.status}")
    wrong = await caller.get("/v1/program", headers={API_KEY_HEADER: "sk_test_perkamo_check"})
    findings.add("request.key_status", CONFIRMED if wrong.status == 401 else str(wrong.status))
    findings.expect("error.status", wrong.refused, f"a wrong key is answered with {wrong.status}")
    findings.add("error.shape", shapes.error(wrong.body, wrong.json))


async def _usage(caller: Caller, findings: Findings) -> None:
    usage = await caller.get("/v1/usage")
    findings.add("usage", "missing" if usage.status == 404 else CONFIRMED if usage.ok else None)
    if usage.ok:
        kinds = {"a list": "list", "an object": CONFIRMED}
        findings.add("usage.answer", kinds.get(name_of(usage.json), "has another shape"))


async def _prefix(caller: Caller, findings: Findings) -> None:
    prefixed = await caller.get("/perkamo-check/v1/program")
    findings.expect("request.prefix", prefixed.ok, f"answers {prefixed.status}")


async def _nobody(caller: Caller, findings: Findings) -> None:
    nobody = await caller.get(f"/v1/customer/{STRANGER}")
    known = {200: CONFIRMED, 404: "404"}
    findings.add("customer.unknown", known.get(nobody.status, f"answers {nobody.status}"))
    if nobody.ok:
        read_customer(findings, nobody)
