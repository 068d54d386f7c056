"""The sieges of the shops prove something: each fault that they are for is planted, and seen."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from flask import Flask
from werkzeug.serving import make_server

from perkamo import Event, PerkamoClient, PerkamoError, RetryPolicy, create_transaction_id
from perkamo.sandbox import Fault, Reset, Sandbox, Status
from tests.integrations import orders
from tests.integrations.servers import buy_all, wait_until_applied

IDS: Final = [f"order_{number}" for number in range(10)]


def send(client: PerkamoClient, event: Event) -> None:
    """Send an event, as it is to be done."""
    client.emit_event(event)


def forget(client: PerkamoClient, event: Event) -> None:
    """Accept the order, whatever happens to the event."""
    try:
        client.emit_event(event)
    except PerkamoError:
        return


def renew(client: PerkamoClient, event: Event) -> None:
    """Give the event another id each time that the customer asks."""
    client.emit_event(event.with_transaction_id(create_transaction_id()))


def invent(client: PerkamoClient, event: Event) -> None:
    """Send an event of an order that nobody has made, too."""
    client.emit_event(event)
    client.emit(event.user_id, event.event, {"order": "order_of_nobody"})


@contextmanager
def served(deliver: Callable[[PerkamoClient, Event], None], client: PerkamoClient) -> Iterator[int]:
    """Serve a shop in this process, and yield its port."""
    app = Flask("shop")

    @app.post("/orders/<order_id>/paid")
    def paid(order_id: str) -> tuple[str, int]:
        try:
            deliver(client, orders.save(order_id, 1))
        except PerkamoError:
            return "", 503
        return "", 200

    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@pytest.mark.parametrize(
    ("deliver", "fault"),
    [
        (send, Status(503)),
        (send, Reset(after="apply")),
        (forget, Status(503)),
        (renew, Reset(after="apply")),
        (invent, Status(503)),
    ],
    ids=["right", "right, too", "forget", "renew", "invent"],
)
def test_a_siege_tells_a_right_shop_from_a_wrong_one(
    deliver: Callable[[PerkamoClient, Event], None],
    fault: Fault,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call fails for good, and the customer asks again; catches a siege that a shop passes that loses or doubles."""
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.sqlite3"))
    orders.create_table()
    sandbox.faults.next("POST /v1/events", fault, times=3)
    policy = RetryPolicy(base_delay=0, max_delay=0)
    with (
        PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=policy) as client,
        served(deliver, client) as port,
    ):
        buy_all(port, [f"/orders/{IDS[0]}/paid"])  # meets the fault, three times
        buy_all(port, [f"/orders/{one}/paid" for one in IDS[1:]])

    assert orders.saved(tmp_path / "shop.sqlite3") == set(IDS)
    if deliver is send:
        wait_until_applied(sandbox, IDS)
    else:
        with pytest.raises(AssertionError):
            wait_until_applied(sandbox, IDS, patience=0.1)


def test_a_siege_without_its_kills_fails() -> None:
    """Catches one that ends before anything was killed."""
    with pytest.raises(AssertionError):
        buy_all(1, [], kills=1)
