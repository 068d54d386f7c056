"""What is known of the service: one row for each field and each behaviour, the single source of the marks.

``decoding`` reads here which fields it may insist on, the sandbox tells these rows as its ``fidelity`` and answers
otherwise where a row has alternatives, and ``perkamo check`` finds out which of them a service has.
"""

from typing import Final, Literal, TypeAlias

from attrs import frozen

Known: TypeAlias = Literal["published", "older", "assumed"]
"""Published for the current version, published for an earlier one, or our assumption."""


@frozen
class Fact:
    """One behaviour of the service, or the shape of one field of its answers.

    Attributes:
        name: What it is called everywhere, such as ``customer.perks``.
        behaviour: What we expect, which is what the sandbox does.
        known: ``published`` for the current version, ``older`` for an earlier one, or ``assumed``.
        source: Where it is published, or why it is assumed so.
        alternatives: The other ways in which it may turn out that the sandbox can imitate; see its ``dialect``.
    """

    name: str
    behaviour: str
    known: Known
    source: str
    alternatives: tuple[str, ...] = ()


_JS: Final = "README of the JavaScript SDK 0.8.0"
_PHP: Final = "source of the PHP SDK 0.7.0"
_DOCS: Final = "public documentation pages"
_NONE: Final = "unpublished"


def _field(name: str, shape: str, known: Known, source: str, alternatives: tuple[str, ...] = ()) -> Fact:
    return Fact(name, f"{name}: {shape}", known, source, alternatives)


_FIELDS: Final = (
    _field("result.applied", "a boolean", "published", _PHP),
    _field("result.duplicate", "a boolean", "published", _PHP),
    _field("result.delta", "a list of wallet and amount", "published", _PHP),
    _field("result.leveled_up", "a boolean", "published", _PHP),
    _field("result.unlocked", "a list of type, key and name", "published", _PHP),
    _field("result.wallet_state", "an object of numbers", "published", _PHP),
    _field("result.level", "a level, null or absent", "published", _PHP),
    _field("delta.wallet", "text", "published", _PHP),
    _field("delta.amount", "a number", "published", _PHP),
    _field("level.wallet", "text", "published", _PHP),
    _field("level.level", "an integer", "published", _PHP),
    _field("level.current", "a number", "published", _PHP),
    _field("level.currentLevelAt", "a number", "published", _PHP),
    _field("level.progress", "a number from 0 to 1", "published", _PHP),
    _field("level.nextLevelAt", "a number or null", "published", _PHP),
    _field("unlocked.type", "text", "published", _PHP),
    _field("unlocked.key", "text", "published", _PHP),
    _field("unlocked.name", "text", "published", _PHP),
    _field("batch.results", "a list with one item for each event, in the order of the request", "published", _PHP),
    _field("customer.user_id", "text", "older", _DOCS, ("absent", "id", "number")),
    _field("customer.traits", "an object", "older", _DOCS, ("absent", "list", "null")),
    _field("customer.wallets", "an object of numbers", "older", _DOCS, ("list", "null", "objects", "texts")),
    _field(
        "customer.level",
        "a level as in an event result, or null",
        "older",
        _DOCS,
        ("absent", "fractions", "number", "object without progress", "text"),
    ),
    _field(
        "customer.perks",
        "a list of objects with type, key and name",
        "older",
        f"{_DOCS}; the fields of a perk are {_NONE}",
        ("map", "null", "objects with translated names", "texts"),
    ),
    _field(
        "customer.flags",
        "absent",
        "assumed",
        f"the type PerkamoCustomerFlags is public, its fields are {_NONE}",
        ("list", "object"),
    ),
    _field("program.blueprint", "an object", "assumed", f"{_JS}, without its fields", ("flat", "null", "text")),
    _field("program.metrics", "an object", "assumed", f"{_JS}, without its fields", ("absent", "list")),
    _field("program.usage", "an object", "assumed", f"{_JS}, without its fields", ("absent", "number")),
    _field(
        "blueprint.earningRules",
        "a list of objects",
        "assumed",
        f"{_JS} names it and the event of each rule, no more",
        ("map", "null", "one without event"),
    ),
    _field("rule.event", "text", "published", _JS),
    _field("rule.label", "text", "assumed", f"{_JS} tells of labels without their name", ("absent", "object")),
    _field(
        "rule.reward",
        "an object with wallet, and amount or formula",
        "assumed",
        f"{_JS} tells of both without their names",
        ("number", "text"),
    ),
    _field("token.token", "text", "published", _PHP),
    _field("token.token_type", "Bearer", "published", _PHP),
    _field("token.expires_at", "a moment with a zone", "published", _PHP),
    _field("token.expires_in", "an integer of seconds", "published", _PHP),
)
"""Each typed field of an answer, by the names on the wire."""

_BEHAVIOURS: Final = (
    Fact(
        "endpoints",
        "POST /v1/identify, /v1/events, /v1/events:batch, GET /v1/customer/{user_id}, /v1/program",
        "published",
        _JS,
    ),
    Fact("request.key", "x-perkamo-api-key on every call", "published", _PHP),
    Fact("request.signature", "every POST is signed over timestamp, method, path and raw body", "published", _PHP),
    Fact(
        "request.php",
        "[] for an empty context or traits, escaped slashes, occurred_at in whole seconds",
        "published",
        _PHP,
    ),
    Fact("event.lengths", "user_id up to 256 characters, event up to 128, transaction_id up to 256", "published", _PHP),
    Fact(
        "event.reserved",
        "reserved context keys, at the top level, in any case of letters",
        "published",
        f"{_JS}; {_PHP}",
    ),
    Fact("batch.size", "up to 100 events in a batch, each with its transaction id", "published", _JS),
    Fact(
        "error.status",
        "every status but 2xx is an error, with a message, retry-after and a request id where there are any",
        "published",
        _PHP,
    ),
    Fact(
        "token.endpoint", "POST /v1/browser-tokens, its fields, its answer and TTLs of 1 to 1800 s", "published", _PHP
    ),
    Fact("rule.formula", "rewards of a fixed amount or a {{formula}} over the context", "published", _JS),
    Fact(
        "webhook.delivery", "body and headers, unsigned, a 2xx within 5 s is success, repetitions", "published", _DOCS
    ),
    Fact("usage", "GET /v1/usage exists", "older", _DOCS, ("missing",)),
    Fact("usage.answer", "usage is an object", "assumed", _NONE, ("list",)),
    Fact("redeem", "POST /v1/rewards/redeem exists and carries a transaction_id", "older", _DOCS, ("missing",)),
    Fact(
        "redeem.answer",
        "redeem takes user_id, reward and transaction_id, and answers like an event",
        "assumed",
        _NONE,
        ("reward only",),
    ),
    Fact("request.skew", "a timestamp may be 300 s off", "assumed", f"the allowed skew is {_NONE}", ("900 s",)),
    Fact("request.key_status", "a wrong key or signature is 401", "assumed", _NONE, ("403",)),
    Fact("request.media_type", "a wrong content type is 415, a body over 2 MB is 413", "assumed", _NONE),
    Fact(
        "request.prefix",
        "what stands before /v1/ in a path is a gateway's prefix, which is not signed",
        "assumed",
        "the hosted API has none",
    ),
    Fact(
        "request.json",
        "JSON with a key twice, NaN, an infinity or a lone surrogate is refused",
        "assumed",
        "no published client sends it",
    ),
    Fact("request.unknown_fields", "unknown fields are ignored", "assumed", _NONE, ("refused",)),
    Fact("event.status", "an event is answered with 200", "assumed", "any 2xx is success (published)", ("202",)),
    Fact("event.refused", "an event that breaks a rule is 400", "assumed", _NONE, ("422",)),
    Fact(
        "event.characters",
        "characters are counted in UTF-16 code units",
        "assumed",
        "the service is JavaScript; the PHP client counts bytes",
        ("bytes", "code points"),
    ),
    Fact(
        "event.optional",
        "occurred_at and context may be missing; transaction_id may not",
        "assumed",
        "every published client sends all three",
        ("all required",),
    ),
    Fact("event.unruled", "an event that no rule names is applied with an empty delta", "assumed", _NONE, ("refused",)),
    Fact("event.stranger", "an event creates its customer", "assumed", _NONE, ("refused",)),
    Fact(
        "rule.empty_formula",
        "a formula whose value is missing or not a number earns nothing; results are not rounded",
        "assumed",
        _NONE,
    ),
    Fact(
        "duplicate.answer",
        "a repeated transaction id answers duplicate: true, applied: false, an empty delta and the present balances",
        "assumed",
        "inferred: the PHP client reads duplicate, no published page shows the case",
        ("applied too", "conflict", "first result"),
    ),
    Fact(
        "duplicate.other_body",
        "the same transaction id with another body is a duplicate too",
        "assumed",
        _NONE,
        ("conflict",),
    ),
    Fact(
        "duplicate.scope",
        "a transaction id counts once in the whole Space, permanently, across customers",
        "assumed",
        f"scope and memory are {_NONE}",
        ("customer",),
    ),
    Fact(
        "batch.failed_item",
        "a batch is not atomic; a failed item is an event result with applied: false and an error object",
        "assumed",
        f"its shape is {_NONE}",
        (
            "code and message",
            "empty",
            "error object",
            "error text",
            "null",
            "problem",
            "refused whole",
            "status",
            "text",
            "unexplained",
        ),
    ),
    Fact("batch.status", "a batch is answered with 200, whatever its items are", "assumed", _NONE, ("207",)),
    Fact(
        "batch.repeated",
        "one transaction id twice in a batch: the second is a duplicate",
        "assumed",
        _NONE,
        ("failed item",),
    ),
    Fact(
        "customer.unknown",
        "a customer that nothing was sent for reads as an empty one, 200",
        "assumed",
        _NONE,
        ("404",),
    ),
    Fact("customer.object", "the customer is the whole answer", "assumed", _NONE, ("in customer", "in data")),
    Fact("customer.achievements", "a list like perks", "assumed", _NONE, ("absent",)),
    Fact("program.object", "the program is the whole answer", "assumed", _NONE, ("in data", "null")),
    Fact(
        "blueprint.rest",
        "wallets, levels, perks, achievements and rewards stand in the blueprint",
        "assumed",
        _NONE,
        ("absent",),
    ),
    Fact("identify.answer", "user_id and traits", "assumed", _NONE, ("customer", "empty", "list", "null")),
    Fact("identify.merge", "identify merges traits one level deep", "assumed", _NONE, ("replace",)),
    Fact(
        "error.shape",
        "an error is an object with a message",
        "assumed",
        "the message is read where there is one (published)",
        ("empty", "nested", "problem", "text"),
    ),
    Fact(
        "error.request_id",
        "every answer has x-perkamo-request-id",
        "assumed",
        "the header's name is published",
        ("absent",),
    ),
    Fact(
        "rate_limit",
        "a rate limit of 100,000 per minute is reported and never enforced",
        "assumed",
        f"the limits are {_NONE}",
        ("absent",),
    ),
    Fact("token.lifetime", "browser tokens live 600 s by default, stream tokens 120 s", "assumed", _NONE, ("300 s",)),
    Fact("token.wrong_key", "another browser key is 403", "assumed", _NONE, ("401", "404")),
    Fact("stream", "the customer stream", "assumed", "preview: path, parameters and event names are unpublished"),
    Fact(
        "stream.resume",
        "a stream begins with the customer as it is, and resumes after Last-Event-ID from the last 1,000 changes",
        "assumed",
        _NONE,
    ),
    Fact(
        "webhook.schedule",
        "four repetitions, after some hundredths of a second each",
        "assumed",
        "its schedule is not told",
    ),
)

FACTS: Final = {fact.name: fact for fact in (*_FIELDS, *_BEHAVIOURS)}
"""All of it, by name."""
