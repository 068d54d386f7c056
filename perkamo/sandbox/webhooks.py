"""The sandbox's webhooks: a delivery after each applied event; on request, as unreliable as a real network."""

import json
import threading
from collections import deque
from collections.abc import Collection, Mapping
from http.client import HTTPConnection, HTTPException
from typing import Final
from urllib.parse import urlsplit

from attrs import field, frozen

from perkamo.sandbox.faults import Interceptor
from perkamo.sandbox.ledger import CustomerChange, Ledger, LedgerCleared, SandboxEvent
from perkamo.sandbox.messages import Json, JsonObject
from perkamo.sandbox.tokens import IdMaker

ANSWER_SECONDS: Final = 5.0
"""Published: a 2xx within five seconds is success."""

REPEAT_WAITS: Final = (0.02, 0.05, 0.1, 0.2)
"""Seconds before each repetition. Assumed, and far shorter than a real service's, so that tests don't wait."""

_SPACE: Final[JsonObject] = {"slug": "sandbox", "name": "Sandbox", "environment": "test"}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@frozen
class SentWebhook:
    """One attempt at a delivery.

    Attributes:
        delivery_id: The same in every repetition.
        event: The event key.
        attempt: From 1.
        status: The receiver's status; None if it did not answer in time.
    """

    delivery_id: str
    event: str
    attempt: int
    status: int | None


def target(url: str, hosts: Collection[str] = ()) -> tuple[str, int, str]:
    """Return host, port and path of a URL that webhooks may go to.

    Args:
        url: The URL.
        hosts: Other hosts that are allowed, in lower case.

    Raises:
        ValueError: It is not an ``http`` URL of this machine or of one of these hosts.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None or parts.hostname not in {*_LOOPBACK, *hosts}:
        raise ValueError("webhooks go to http URLs of this machine only, or of a host that was allowed by name")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.hostname, parts.port or 80, path


@frozen
class _Delivery:
    delivery_id: str
    event: str
    body: bytes = field(repr=False)


class Webhooks:
    """Posts a delivery to one address of this machine after each applied event. It is thread-safe.

    Args:
        ledger: The ledger, whose changes are delivered.
        ids: Makes delivery ids.
    """

    def __init__(self, ledger: Ledger, ids: IdMaker) -> None:
        self._ledger = ledger
        self._ids = ids
        self._changed = threading.Condition()
        self._queue: deque[_Delivery] = deque()
        self._held: list[_Delivery] = []
        self._busy = False  # there is a thread as long as something is queued: it ends when the queue is empty
        self._generation = 0
        self._seen = 0
        self._sent: list[SentWebhook] = []
        self._target: tuple[str, int, str] | None = None
        self._headers: dict[str, str] = {}
        self._twice = self._to_hold = 0
        self._delay = 0.0
        self._interceptor: Interceptor | None = None
        ledger.listen(self._listen)

    @property
    def sent(self) -> tuple[SentWebhook, ...]:
        """Every attempt so far, oldest first."""
        with self._changed:
            return tuple(self._sent)

    def send_to(self, url: str, *, headers: Mapping[str, str] | None = None, hosts: Collection[str] = ()) -> None:
        """Deliver the events that are applied from now on.

        Args:
            url: An ``http`` URL of this machine, or of one of the hosts; the sandbox posts nowhere else.
            headers: More headers, such as one with the receiver's secret.
            hosts: Other hosts that are allowed, such as the application's service in Compose.

        Raises:
            ValueError: It is not such a URL.
        """
        where = target(url, [host.lower() for host in hosts])
        with self._changed:
            self._target = where
            self._headers = dict(headers or {})

    def duplicate(self, times: int = 1) -> None:
        """Send this many of the next deliveries twice, with the same delivery id."""
        with self._changed:
            self._twice = times

    def reorder(self, count: int) -> None:
        """Hold this many of the next deliveries, and send them in the opposite order."""
        with self._changed:
            self._to_hold = count

    def delay(self, seconds: float) -> None:
        """Wait before each delivery from now on."""
        with self._changed:
            self._delay = seconds

    def wait(self, timeout: float = 10.0) -> None:
        """Wait until every delivery has succeeded or was given up.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: A delivery is still under way, or held for a reordering.
        """
        self.settle(timeout, held=True)

    def settle(self, timeout: float, *, held: bool = False) -> None:
        """Wait until no delivery is under way, without those that are held for a reordering.

        Args:
            timeout: Seconds.
            held: Wait for these, too.

        Raises:
            TimeoutError: A delivery is still under way, or held.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not (self._busy or (held and self._held)), timeout):
                raise TimeoutError("webhooks are still on their way, or held until more events come")

    def intercept(self, interceptor: Interceptor | None) -> None:
        """Let an interceptor decide which deliveries are made twice; None to end that."""
        with self._changed:
            self._interceptor = interceptor

    def reset(self) -> None:
        """Forget the target, the faults, the records and the deliveries under way."""
        with self._changed:
            self._generation += 1
            self._queue.clear()
            self._held.clear()
            self._sent.clear()
            self._target = None
            self._twice = self._to_hold = 0
            self._delay = 0.0
            self._changed.notify_all()

    def _listen(self, change: CustomerChange | LedgerCleared) -> None:
        """Queue a delivery if the change is an applied event; called with the sandbox locked."""
        if isinstance(change, LedgerCleared):
            self._seen = 0
            self.reset()
        elif self._ledger.events_applied != self._seen:
            self._seen = self._ledger.events_applied
            with self._changed:
                if self._target is not None:
                    self._put(self._delivery(self._ledger.latest(1)[0], change.customer["wallets"]))

    def _delivery(self, event: SandboxEvent, wallets: Json) -> _Delivery:
        data: JsonObject = {
            "space": _SPACE,
            "user_id": event.user_id,
            "transaction_id": event.transaction_id,
            "event": event.event,
            "status": "applied",
            "occurred_at": event.occurred_at,
            "context": dict(event.context),
            "delta": [{"wallet": wallet, "amount": amount} for wallet, amount in event.delta.items()],
            "effects": [],
            "wallet_state": wallets,
        }
        body = {
            "id": self._ids.make("evt_"),
            "type": event.event,
            "created_at": event.occurred_at,
            "data": data,
        }
        return _Delivery(self._ids.make("dlv_"), event.event, json.dumps(body).encode())

    def _put(self, delivery: _Delivery) -> None:
        if self._to_hold:
            self._held.append(delivery)
            self._to_hold -= 1
            if self._to_hold:
                return
            waiting, self._held = self._held[::-1], []
        else:
            waiting = [delivery]
        for one in waiting:
            self._queue.append(one)
            repeated = self._interceptor is not None and self._interceptor.repeats()
            if self._twice or repeated:
                self._twice = max(self._twice - 1, 0)
                self._queue.append(one)
        if not self._busy:
            self._busy = True
            threading.Thread(target=self._work, name="perkamo-sandbox-webhooks", daemon=True).start()

    def _work(self) -> None:
        """Deliver until the queue is empty. Then the thread ends, so that it never has to be stopped."""
        while True:
            with self._changed:
                if not self._queue:
                    self._busy = False
                    self._changed.notify_all()
                    return
                delivery, generation = self._queue.popleft(), self._generation
            self._deliver(delivery, generation)

    def _deliver(self, delivery: _Delivery, generation: int) -> None:
        for attempt, wait in enumerate((self._delay, *REPEAT_WAITS), 1):
            with self._changed:
                self._changed.wait_for(lambda: self._generation != generation, wait)
                if self._generation != generation or self._target is None:
                    return
                where, headers = self._target, dict(self._headers)
            status = _post(where, delivery, attempt, headers)
            with self._changed:
                if self._generation == generation:
                    self._sent.append(SentWebhook(delivery.delivery_id, delivery.event, attempt, status))
            if status is not None and 200 <= status < 300:
                return


def _post(where: tuple[str, int, str], delivery: _Delivery, attempt: int, headers: Mapping[str, str]) -> int | None:
    host, port, path = where
    connection = HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request(
            "POST",
            path,
            delivery.body,
            {
                "user-agent": "Perkamo-Webhook/1.0",
                "content-type": "application/json",
                "x-perkamo-delivery": delivery.delivery_id,
                "x-perkamo-event": delivery.event,
                "x-perkamo-space": str(_SPACE["slug"]),
                "x-perkamo-attempt": str(attempt),
                **headers,
            },
        )
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
