"""Questions that send events of a test customer: what counts, what is refused, and the effect of a repeated id."""

from datetime import UTC, datetime
from functools import partial
from typing import Final
from urllib.parse import quote
from uuid import uuid4

from attrs import define, field

from perkamo.cli.checking import shapes
from perkamo.cli.checking.caller import Answer, Caller, json_bytes
from perkamo.cli.checking.findings import CONFIRMED, Findings
from perkamo.cli.checking.reading import STRANGER, Plan, read_customer
from perkamo.cli.checking.shapes import JsonObject
from perkamo.cli.fields import context_paths
from perkamo.encoding.encode import JSONValue
from perkamo.encoding.ids import MAX_EVENT_LENGTH, MAX_TRANSACTION_ID_LENGTH, MAX_USER_ID_LENGTH
from perkamo.models import ProgramEvent
from perkamo.sandbox.formula import FormulaError, FormulaValueError, parse_formula
from perkamo.signing import SIGNATURE_HEADER, TIMESTAMP_HEADER

EVENTS: Final = "/v1/events"
IDENTIFY: Final = "/v1/identify"
MISSING: Final = (404, 405)
"""Statuses of a path that does not exist."""
USUAL_EVENT: Final = "user.registered"
"""The event that is sent if the program does not name one."""

_LARGE: Final = 2_100_000
_TOO_OLD: Final = -600.0
_OLD: Final = -240.0
_TRAITS: Final = ("perkamo_check_a", "perkamo_check_b")
_FACT: Final = 37
"""The value of each fact that a formula reads."""


@define
class Writer:
    """Asks with events of one test customer.

    Attributes:
        caller: Sends the requests.
        findings: Takes the answers.
        customer: The test customer.
        plan: The part of the program that is needed.
        event: An event that earns.
        context: Its context.
        is_taken: Whether a valid event was accepted.
    """

    caller: Caller
    findings: Findings
    customer: str = field(repr=False)
    plan: Plan
    event: str
    context: JsonObject
    is_taken: bool = False

    @classmethod
    def of(cls, caller: Caller, findings: Findings, customer: str, plan: Plan) -> "Writer":
        """Choose an event that earns: one of a fixed amount before one of a formula."""
        usual: JsonObject = {"event": USUAL_EVENT}
        rule = min(plan.rules, key=lambda one: "{{" in str(one), default=usual)
        return cls(caller, findings, customer, plan, str(rule["event"]), facts_of(rule))

    def new(self, **changed: JSONValue) -> JsonObject:
        """Return an event under a fresh transaction id, with some fields changed."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "user_id": self.customer,
            "event": self.event,
            "transaction_id": f"perkamo_check_{uuid4().hex}",
            "context": self.context,
            "occurred_at": now,
            **changed,
        }

    async def send(self, event: JsonObject) -> Answer:
        """Send one event."""
        return await self.caller.post(EVENTS, event)

    async def read(self, user_id: str) -> Answer:
        """Read a customer."""
        return await self.caller.get(f"/v1/customer/{quote(user_id, safe='')}")

    async def ask(self) -> JsonObject | None:
        """Ask with single events, in an order in which no answer depends on a later one.

        Returns:
            An event that has counted; None if not even a valid one is accepted, so that nothing can be found out.
        """
        counted = self.new()
        await self.findings.attempt(self._identify)
        await self.findings.attempt(partial(self._emit, counted))
        if not self.is_taken:
            return None
        for step in (
            self._customer,
            partial(self._repeat, counted),
            partial(self._strangers, counted),
            self._refused,
            self._lengths,
            self._bodies,
            self._proofs,
            self._formula,
        ):
            await self.findings.attempt(step)
        return counted

    async def _identify(self) -> None:
        first, second = [
            await self.caller.post(IDENTIFY, {"user_id": self.customer, "traits": {trait: uuid4().hex}})
            for trait in _TRAITS
        ]
        if second.status in MISSING:
            self.findings.add("endpoints", f"{IDENTIFY} answers {second.status}")
        self.findings.add("identify.answer", shapes.identified(first.body, first.json) if second.ok else None)

    async def _emit(self, event: JsonObject) -> None:
        answer, add = await self.send(event), self.findings.add
        if not answer.ok:
            missing = answer.status in MISSING
            add("endpoints", f"{EVENTS} answers {answer.status}" if missing else None, "a valid event is not accepted")
            return
        add("event.status", CONFIRMED if answer.status == 200 else str(answer.status))
        if not isinstance(answer.json, dict):
            add("endpoints", f"{EVENTS} is not answered with an object")
            return
        add("endpoints", CONFIRMED)
        self.is_taken = True
        self._shape(answer.json)

    def _shape(self, result: JsonObject) -> None:
        """Record the shape of an event's result."""
        for name, question in shapes.RESULT.items():
            self.findings.add(name, question(result))
        parts = {"delta": shapes.DELTA, "unlocked": shapes.UNLOCKED, "level": shapes.LEVEL}
        for part, questions in parts.items():
            value = result.get(part)
            items = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]
            for name, question in questions.items():
                if not items:
                    self.findings.add(name, None, f"this result has no {part}")
                for item in items:
                    self.findings.add(name, question(item))

    async def _customer(self) -> None:
        answer = await self.read(self.customer)
        if answer.status in MISSING:
            self.findings.add("endpoints", f"a customer of whom an event counted is answered with {answer.status}")
        if not answer.ok:
            return
        read_customer(self.findings, answer)
        _, customer = shapes.whole_customer(answer.json)
        traits = None if customer is None else customer.get("traits")
        if isinstance(traits, dict) and _TRAITS[1] in traits:
            self.findings.expect("identify.merge", _TRAITS[0] in traits, "replace")

    async def _repeat(self, counted: JsonObject) -> None:
        before = await self.read(self.customer)
        again = await self.send(counted)
        if again.ok and isinstance(again.json, dict):
            self._shape(again.json)
        self.findings.add("duplicate.answer", _duplicate(again))
        other = await self.send({**counted, "context": {**self.context, "perkamo_check": True}})
        after = await self.read(self.customer)
        self.findings.add("duplicate.other_body", _counted(other, before, after, "is applied once more"))

    async def _strangers(self, counted: JsonObject) -> None:
        stranger = await self.send(self.new(user_id=STRANGER))
        self.findings.add("event.stranger", "refused" if stranger.refused else CONFIRMED)
        unruled = await self.send(self.new(event="perkamo.check.unruled"))
        earned = unruled.json.get("delta") if isinstance(unruled.json, dict) else None
        earns = {True: "earns something", False: CONFIRMED}.get(bool(earned)) if isinstance(earned, list) else None
        self.findings.add("event.unruled", "refused" if unruled.refused else earns)
        await self.caller.post(IDENTIFY, {"user_id": STRANGER, "traits": {}})
        before = await self.read(STRANGER)
        scoped = await self.send({**counted, "user_id": STRANGER})
        self.findings.add("duplicate.scope", _counted(scoped, before, await self.read(STRANGER), "customer"))

    async def _refused(self) -> None:
        answers = [await self.send(self.new(context={key: 1})) for key in ("xp", "Wallets")]
        self.findings.expect("event.reserved", all(one.refused for one in answers), "reserved keys are accepted")
        if answers[0].refused:
            status = answers[0].status
            self.findings.add("event.refused", CONFIRMED if status == 400 else str(status))
            self.findings.add("error.shape", shapes.error(answers[0].body, answers[0].json))

    async def _lengths(self) -> None:
        longest = await self.send(self.new(transaction_id=_long("a", MAX_TRANSACTION_ID_LENGTH)))
        too_long = [
            await self.send(self.new(transaction_id=_long("a", MAX_TRANSACTION_ID_LENGTH + 1))),
            await self.send(self.new(event="e" * (MAX_EVENT_LENGTH + 1))),
            await self.send(self.new(user_id="u" * (MAX_USER_ID_LENGTH + 1))),
        ]
        refused = [one.refused for one in too_long]
        fine = longest.ok and all(refused)
        self.findings.expect("event.lengths", fine, "shorter ids are refused" if not longest.ok else "longer are taken")
        two_bytes = await self.send(self.new(transaction_id=_long("é", 200)))
        two_units = await self.send(self.new(transaction_id=_long("😀", 200)))
        counts = "code points" if two_units.ok else CONFIRMED
        self.findings.add("event.characters", counts if two_bytes.ok else "bytes")

    async def _bodies(self) -> None:
        event = self.new()
        bare = {name: event[name] for name in ("user_id", "event", "transaction_id")}
        without_id = {name: value for name, value in self.new().items() if name != "transaction_id"}
        optional, nameless = await self.send(bare), await self.send(without_id)
        self.findings.add(
            "event.optional",
            "all required" if optional.refused else CONFIRMED if nameless.refused else "transaction_id is optional",
        )
        unknown = await self.send(self.new(perkamo_check=True))
        self.findings.add("request.unknown_fields", "refused" if unknown.refused else CONFIRMED)
        post = partial(self.caller.post, EVENTS)
        seconds = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        php = self.new(context=[], occurred_at=seconds, transaction_id=f"perkamo/check/{uuid4().hex}")
        self.findings.expect("request.php", (await post(json_bytes(php).replace(b"/", b"\\/"))).ok, "is refused")
        twice = json_bytes(self.new()).replace(b'"event":', b'"event":"a","event":')
        no_number = json_bytes(self.new(context={"n": "nan"})).replace(b'"nan"', b"NaN")
        strict = [await post(twice), await post(no_number)]
        self.findings.expect("request.json", all(one.refused for one in strict), "invalid JSON is accepted")
        plain = await post(self.new(), content_type="text/plain")
        large = await post(self.new(context={"text": "x" * _LARGE}))
        fine = (plain.status, large.status) == (415, 413)
        self.findings.expect("request.media_type", fine, f"answers {plain.status} and {large.status}")

    async def _proofs(self) -> None:
        post = partial(self.caller.post, EVENTS)
        wrong = await post(self.new(), changed={SIGNATURE_HEADER: f"v1={'0' * 64}"})
        unsigned = await post(self.new(), changed={SIGNATURE_HEADER: "", TIMESTAMP_HEADER: ""})
        refused = wrong.refused and unsigned.refused
        self.findings.expect("request.signature", refused, "a request with a wrong signature is accepted")
        old, too_old = await post(self.new(), skew=_OLD), await post(self.new(), skew=_TOO_OLD)
        taken = {(True, False): CONFIRMED, (True, True): "900 s", (False, False): "less than 240 s"}
        self.findings.add("request.skew", taken.get((old.ok, too_old.ok), "unexpected answers"))

    async def _formula(self) -> None:
        """Send an event whose rules are formulas alone, without and with what they read."""
        alone = [rule for rule in self.plan.rules if sum(rule["event"] == one["event"] for one in self.plan.rules) == 1]
        formula = next((text for rule in alone if (text := _formula_of(rule)) is not None), None)
        rule = next((rule for rule in alone if _formula_of(rule) == formula), None)
        if formula is None or rule is None:
            return
        empty = await self.send(self.new(event=rule["event"], context={}))
        full = await self.send(self.new(event=rule["event"], context=facts_of(rule)))
        try:
            wanted = parse_formula(formula).evaluate(facts_of(rule))
        except (FormulaError, FormulaValueError):
            return
        amounts = _amounts(empty), _amounts(full)
        if None not in amounts:
            fine = amounts == ([], [wanted])
            self.findings.expect("rule.empty_formula", fine, "earns something else")


def facts_of(rule: JsonObject) -> JsonObject:
    """Return a context with a number in each place that a rule's formula reads."""
    facts: JsonObject = {}
    for path in context_paths(ProgramEvent(str(rule.get("event")), raw=rule)):
        *outer, last = path.split(".")
        inner = facts
        for key in outer:
            below = inner.setdefault(key, {})
            inner = below if isinstance(below, dict) else {}
        inner[last] = _FACT
    return facts


def _formula_of(rule: JsonObject) -> str | None:
    reward = rule.get("reward")
    text = reward.get("formula") if isinstance(reward, dict) else reward
    return text if isinstance(text, str) and "{{" in text else None


def _amounts(answer: Answer) -> list[JSONValue] | None:
    match answer.json:
        case {"delta": list() as delta}:
            amounts = [one.get("amount") for one in delta if isinstance(one, dict)]
            return amounts if all(type(one) in (int, float) for one in amounts) and len(amounts) == len(delta) else None
        case _:
            return None


def _duplicate(answer: Answer) -> str | None:
    match answer.json:
        case {"applied": False, "duplicate": True}:
            return CONFIRMED
        case {"applied": True, "duplicate": True}:
            return "applied too"
        case {"applied": True, "duplicate": False}:
            return "first result"
        case _:
            other = f"answers {answer.status}"
            return "conflict" if answer.status == 409 else None if answer.ok else other


def _counted(answer: Answer, before: Answer, after: Answer, otherwise: str) -> str | None:
    """Return whether a repeated id changed nothing."""
    if answer.status == 409:
        return CONFIRMED if otherwise == "customer" else "conflict"
    if not (answer.ok and before.ok and after.ok):
        return None
    return CONFIRMED if _wallets(before) == _wallets(after) else otherwise


def _wallets(answer: Answer) -> JSONValue:
    _, customer = shapes.whole_customer(answer.json)
    return None if customer is None else customer.get("wallets")


def _long(sign: str, number: int) -> str:
    """Return an unused id of a given length, mostly of one character."""
    return (uuid4().hex + sign * number)[:number]
