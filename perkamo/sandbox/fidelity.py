"""What the sandbox knows and what it guesses: one row for each behaviour."""

from typing import Final, Literal

from attrs import frozen

from perkamo.sandbox.messages import JsonObject


@frozen
class Fidelity:
    """How sure one behaviour of the sandbox is.

    Attributes:
        behaviour: What the sandbox does.
        known: ``published`` for the current version, ``older`` for an earlier one, or ``assumed``.
        source: Where it is published, or why it was assumed so.
    """

    behaviour: str
    known: Literal["published", "older", "assumed"]
    source: str

    def json(self) -> JsonObject:
        """Return it as ``GET /_sandbox/fidelity`` shows it."""
        return {"behaviour": self.behaviour, "known": self.known, "source": self.source}


_JS: Final = "README of the JavaScript SDK 0.8.0"
_PHP: Final = "source of the PHP SDK 0.7.0"
_DOCS: Final = "public documentation pages"

FIDELITY: Final = (
    Fidelity(
        "POST /v1/identify, /v1/events, /v1/events:batch, GET /v1/customer/{user_id}, /v1/program", "published", _JS
    ),
    Fidelity("POST /v1/browser-tokens, its fields, its answer and TTLs of 1 to 1800 s", "published", _PHP),
    Fidelity("x-perkamo-api-key on every call", "published", _PHP),
    Fidelity("webhooks: body and headers, unsigned, a 2xx within 5 s is success, repetitions", "published", _DOCS),
    Fidelity(
        "webhooks: four repetitions, after some hundredths of a second each", "assumed", "its schedule is not told"
    ),
    Fidelity("the signature of every POST over timestamp, method, path and raw body", "published", _PHP),
    Fidelity("the fields of an event and their lengths of 256, 128 and 256", "published", _PHP),
    Fidelity("reserved context keys, at the top level, in any case of letters", "published", f"{_JS}; {_PHP}"),
    Fidelity("1 to 100 events in a batch, each with its transaction id", "published", _JS),
    Fidelity("the shape of an event result, of level and of unlocked", "published", _PHP),
    Fidelity("a repeated transaction id answers duplicate: true", "published", _PHP),
    Fidelity("blueprint.earningRules[].event, with a label and a fixed amount or a {{formula}}", "published", _JS),
    Fidelity("error bodies with a message; request id, retry-after and ratelimit headers", "published", _PHP),
    Fidelity("[] for an empty context or traits, escaped slashes, occurred_at in whole seconds", "published", _PHP),
    Fidelity("user_id, traits, wallets, level and perks of a customer", "older", _DOCS),
    Fidelity("GET /v1/usage and POST /v1/rewards/redeem exist, and redeeming carries a transaction_id", "older", _DOCS),
    Fidelity("a timestamp may be 300 s off", "assumed", "the allowed skew is unpublished"),
    Fidelity(
        "wrong keys, signatures and times are 401, wrong bodies 400, wrong content types 415, bodies over 2 MB 413",
        "assumed",
        "unpublished",
    ),
    Fidelity(
        "characters are counted in UTF-16 code units",
        "assumed",
        "the service is JavaScript; the PHP client counts bytes",
    ),
    Fidelity(
        "JSON with a key twice, NaN, an infinity or a lone surrogate is refused",
        "assumed",
        "no published client sends it",
    ),
    Fidelity("unknown fields are ignored, and noted in the request log", "assumed", "unpublished"),
    Fidelity(
        "occurred_at and context may be missing; transaction_id may not",
        "assumed",
        "every published client sends all three",
    ),
    Fidelity(
        "a duplicate answers applied: false, an empty delta and the present balances",
        "assumed",
        "only duplicate: true is published",
    ),
    Fidelity(
        "the same transaction id with another body is a duplicate too, and noted in the request log",
        "assumed",
        "unpublished",
    ),
    Fidelity(
        "a transaction id counts once in the whole Space, for ever, across customers",
        "assumed",
        "scope and memory are unpublished",
    ),
    Fidelity(
        "a batch is not atomic; a failed item is a result with applied: false and an error object",
        "assumed",
        "its shape is unpublished",
    ),
    Fidelity("a customer that nothing was sent for reads as an empty one, 200", "assumed", "unpublished"),
    Fidelity("an event that no rule names is applied with an empty delta", "assumed", "unpublished"),
    Fidelity(
        "a formula whose value is missing or no number earns nothing; results are not rounded", "assumed", "unpublished"
    ),
    Fidelity(
        "identify merges traits one level deep and answers user_id and traits", "assumed", "the answer is unpublished"
    ),
    Fidelity(
        "perks and achievements of a customer have type, key and name",
        "assumed",
        "as in unlocked; their fields are unpublished",
    ),
    Fidelity("all of the blueprint besides earningRules; metrics; usage", "assumed", "unpublished"),
    Fidelity(
        "redeeming takes user_id, reward and transaction_id, and answers like an event",
        "assumed",
        "the shape is unpublished",
    ),
    Fidelity(
        "browser tokens are opaque and live 600 s (stream: 120 s) by default; another browser key is 403",
        "assumed",
        "unpublished",
    ),
    Fidelity(
        "a rate limit of 100,000 per minute is reported and never enforced", "assumed", "the limits are unpublished"
    ),
    Fidelity(
        "what stands before /v1/ in a path is a gateway's prefix, which is not signed",
        "assumed",
        "the hosted API has none",
    ),
    Fidelity("the customer stream", "assumed", "preview: path, parameters and event names are unpublished"),
    Fidelity(
        "a stream begins with the customer as it is, and resumes after Last-Event-ID from the last 1,000 changes",
        "assumed",
        "unpublished",
    ),
)
