"""sandbox: the webhooks that it sends, to a real receiver."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from perkamo import PerkamoClient
from perkamo.sandbox import Sandbox
from perkamo.webhooks import WebhookDelivery
from tests.webhooks.samples import BODY


class Receiver:
    """Keeps deliveries, and answers what it is told to; 200 when it is told nothing."""

    def __init__(self) -> None:
        self.received: list[WebhookDelivery] = []
        self.secrets: list[str | None] = []
        self.statuses: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.received.append(WebhookDelivery.parse(self.headers, body))
                outer.secrets.append(self.headers["x-secret"])
                self.send_response(outer.statuses.pop(0) if outer.statuses else 200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """Take no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that takes webhooks."""
    made = Receiver()
    yield made
    made.close()


def emit(sandbox: Sandbox, *orders: str) -> None:
    """Make purchases."""
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        for order in orders:
            client.emit("customer_1", "purchase.completed", {"amount": 100}, transaction_id=order)


def orders(receiver: Receiver) -> list[str | None]:
    """The transaction ids in the order in which they came."""
    return [delivery.data.transaction_id for delivery in receiver.received]


def test_a_delivery_has_the_published_shape(sandbox: Sandbox, receiver: Receiver) -> None:
    """Every member of the contract's example, and what the event really did; catches one that is left out."""
    sandbox.webhooks.send_to(receiver.url, headers={"x-secret": "s3cret"})

    emit(sandbox, "order_1")
    sandbox.webhooks.wait()

    [delivery] = receiver.received
    assert list(delivery.raw) == list(BODY)
    inner = BODY["data"]
    assert isinstance(inner, dict)
    assert list(delivery.data.raw) == list(inner)
    assert (delivery.type, delivery.attempt, delivery.data.status) == ("purchase.completed", 1, "applied")
    assert (delivery.data.user_id, delivery.data.transaction_id) == ("customer_1", "order_1")
    assert delivery.data.wallet_state == sandbox.customer("customer_1").wallets
    assert {delta.wallet: delta.amount for delta in delivery.data.delta} == sandbox.events()[0].delta
    assert receiver.secrets == ["s3cret"]


def test_what_is_not_applied_is_not_told(sandbox: Sandbox, receiver: Receiver) -> None:
    """Identify and a transaction id that has counted change nothing; catches a delivery for each request."""
    sandbox.webhooks.send_to(receiver.url)

    emit(sandbox, "order_1", "order_1")
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        client.identify("customer_1", {"plan": "pro"})
    sandbox.webhooks.wait()

    assert orders(receiver) == ["order_1"]


def test_a_failure_is_repeated_under_the_same_id(sandbox: Sandbox, receiver: Receiver) -> None:
    """500 and a redirect are no success; catches a repetition with an id of its own and one without end."""
    receiver.statuses = [500, 302]
    sandbox.webhooks.send_to(receiver.url)

    emit(sandbox, "order_1")
    sandbox.webhooks.wait()

    assert [delivery.attempt for delivery in receiver.received] == [1, 2, 3]
    assert len({delivery.delivery_id for delivery in receiver.received}) == 1
    assert [sent.status for sent in sandbox.webhooks.sent] == [500, 302, 200]


def test_a_receiver_that_is_gone_is_given_up(sandbox: Sandbox, receiver: Receiver) -> None:
    """Five attempts and no more; catches a thread that tries forever."""
    sandbox.webhooks.send_to(receiver.url)
    receiver.close()

    emit(sandbox, "order_1")
    sandbox.webhooks.wait()

    assert [(sent.attempt, sent.status) for sent in sandbox.webhooks.sent] == [(n, None) for n in range(1, 6)]


def test_duplicates_and_another_order_come_on_request(sandbox: Sandbox, receiver: Receiver) -> None:
    """The same id twice, and the last first; catches mischief that is none."""
    sandbox.webhooks.send_to(receiver.url)
    sandbox.webhooks.reorder(3)

    emit(sandbox, "order_1", "order_2", "order_3")
    sandbox.webhooks.wait()
    sandbox.webhooks.duplicate()
    emit(sandbox, "order_4", "order_5")
    sandbox.webhooks.wait()

    assert orders(receiver) == ["order_3", "order_2", "order_1", "order_4", "order_4", "order_5"]
    assert receiver.received[3].delivery_id == receiver.received[4].delivery_id


def test_a_held_or_delayed_delivery_keeps_the_waiter_waiting(sandbox: Sandbox, receiver: Receiver) -> None:
    """Reordering needs all of them, a delay its time; catches a wait that returns too early."""
    sandbox.webhooks.send_to(receiver.url)
    sandbox.webhooks.reorder(2)

    emit(sandbox, "order_1")

    with pytest.raises(TimeoutError, match="held"):
        sandbox.webhooks.wait(0.01)
    sandbox.webhooks.delay(30)
    emit(sandbox, "order_2")
    with pytest.raises(TimeoutError):
        sandbox.webhooks.wait(0.05)
    assert receiver.received == []


def test_a_reset_ends_all_of_it(sandbox: Sandbox, receiver: Receiver) -> None:
    """Target, delay and what is on its way are gone; catches a delivery of one test in the next."""
    sandbox.webhooks.send_to(receiver.url)
    sandbox.webhooks.delay(30)
    emit(sandbox, "order_1")

    sandbox.reset()

    sandbox.webhooks.wait(20)
    emit(sandbox, "order_2")
    sandbox.webhooks.wait()
    assert (receiver.received, sandbox.webhooks.sent) == ([], ())


@pytest.mark.parametrize("url", ["https://localhost/", "http://example.com/", "http://192.0.2.1/", "localhost"])
def test_nothing_leaves_this_machine(sandbox: Sandbox, url: str) -> None:
    """Catches a sandbox that posts customers' data to wherever it is told."""
    with pytest.raises(ValueError, match="this machine only"):
        sandbox.webhooks.send_to(url)
