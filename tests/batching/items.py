"""A sandbox that answers some items of a batch otherwise, and applies all others."""

import json
from collections.abc import Callable

from perkamo.sandbox import Sandbox
from perkamo.sandbox.messages import Json, JsonObject, Request, Response, json_response

POISON = "poison"
"""What the transaction id of an event begins with whose item is answered otherwise."""

READABLE: JsonObject = {
    "applied": False,
    "duplicate": False,
    "delta": [],
    "leveled_up": False,
    "unlocked": [],
    "wallet_state": {},
}


def answer_batches(
    sandbox: Sandbox, poison: Json, whole: Callable[[list[Json]], Json] = lambda results: {"results": results}
) -> None:
    """Answer each batch by applying its events one by one, but for those of poison.

    Args:
        sandbox: The sandbox.
        poison: The item of an event of poison, which is not applied.
        whole: Makes the body of the results.
    """

    def handler(request: Request) -> Response | None:
        if not request.path.endswith("/v1/events:batch"):
            return None
        results: list[Json] = []
        for event in json.loads(request.body)["events"]:
            is_poison = event["transaction_id"].startswith(POISON)
            results.append(poison if is_poison else sandbox._space._apply(event, "")[0])
        return json_response(200, whole(results))

    sandbox.add_handler(handler)


def break_at_poison(sandbox: Sandbox, status: int) -> None:
    """Answer each batch that holds an event of poison with an error, and apply none of it.

    Args:
        sandbox: The sandbox.
        status: The status of the error.
    """

    def handler(request: Request) -> Response | None:
        is_poisoned = request.path.endswith("/v1/events:batch") and f'"{POISON}'.encode() in request.body
        return Response(status) if is_poisoned else None

    sandbox.add_handler(handler)
