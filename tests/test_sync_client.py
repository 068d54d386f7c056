"""sync_client: every call from synchronous code, against the sandbox, over a real socket."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from perkamo import (
    Event,
    PerkamoClient,
    PerkamoClosedError,
    PerkamoConfigurationError,
    PerkamoTimeoutError,
    PerkamoValidationError,
    RetryPolicy,
)
from perkamo.sandbox import Delay, Lost, Sandbox
from tests.conftest import QUICK


@pytest.fixture
def perkamo(sandbox: Sandbox) -> PerkamoClient:
    """A sync client of the sandbox that retries without waiting."""
    return PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=QUICK)


def test_every_call_works_from_synchronous_code(perkamo: PerkamoClient, sandbox: Sandbox) -> None:
    """The whole surface in one story; catches a generated method that hands its arguments on wrongly."""
    with perkamo:
        perkamo.identify("customer_123", {"name": "Ada"})
        first = perkamo.emit("customer_123", "purchase.completed", {"amount": 12900}, transaction_id="o1")
        again = perkamo.emit_event(Event("customer_123", "purchase.completed", "o1", {"amount": 12900}))
        batch = perkamo.batch([Event("customer_123", "review.created", "r1")])
        customer = perkamo.customer("customer_123")
        program = perkamo.program()
        catalog = perkamo.event_catalog()
        token = perkamo.create_browser_token(sandbox.browser_key, "customer_123", ttl_seconds=60)
        stream_token = perkamo.create_stream_token(sandbox.browser_key, "customer_123")
        raw = perkamo.request("GET", "/v1/program")

    assert (first.applied, again.duplicate, len(batch.results)) == (True, True, 1)
    assert customer.traits == {"name": "Ada"}
    assert catalog == program.blueprint.earning_rules
    assert (token.expires_in, stream_token.expires_in) == (60, 120)
    assert raw.raw == program.raw


def test_errors_come_through_with_their_types(perkamo: PerkamoClient, sandbox: Sandbox) -> None:
    """Validation, timeout and configuration raise as on the async side; catches a wrapped exception."""
    sandbox.faults.next("GET /v1/program", Delay(30))

    with perkamo:
        with pytest.raises(PerkamoValidationError):
            perkamo.emit("", "e")
        with pytest.raises(PerkamoTimeoutError):
            perkamo.with_options(timeout=0.2, retry=RetryPolicy.none()).program()
    with pytest.raises(PerkamoConfigurationError):
        PerkamoClient("sk_of two words")


def test_a_lost_answer_is_made_up_for(perkamo: PerkamoClient, sandbox: Sandbox) -> None:
    """The sync side shares the retries; catches a second implementation."""
    sandbox.faults.next("POST /v1/events", Lost())

    with perkamo:
        result = perkamo.emit("u", "purchase.completed", {"amount": 100}, transaction_id="t")

    assert (result.duplicate, result.accepted, result.meta.attempts) == (True, True, 2)


def test_closing_twice_is_fine_and_using_afterwards_is_not(perkamo: PerkamoClient) -> None:
    """Lifetimes as on the async side; catches a hang on a closed client."""
    perkamo.close()
    perkamo.close()

    with pytest.raises(PerkamoClosedError):
        perkamo.program()


def test_a_client_that_was_never_closed_is_complained_about_by_its_own_name(perkamo: PerkamoClient) -> None:
    """The warning speaks of ``with`` and ``close()``, once; catches the async twin's wording."""
    perkamo.program()

    with pytest.warns(
        ResourceWarning, match=r"<PerkamoClient http.*use it with 'with', or call 'client.close\(\)'"
    ) as caught:
        perkamo.__del__()

    assert len(caught) == 1
    perkamo.close()


def test_an_http_client_of_the_caller_works_from_synchronous_code(sandbox: Sandbox) -> None:
    """The seam is an httpx.AsyncClient here too; catches an argument that is dropped."""
    http_client = httpx.AsyncClient(transport=sandbox.transport())
    perkamo = PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, http_client=http_client)

    assert perkamo.program().meta.status == 200
    perkamo.close()
    assert not http_client.is_closed


def test_threads_share_one_client(perkamo: PerkamoClient, sandbox: Sandbox) -> None:
    """Each of 400 calls from 16 threads gets its own answer; catches answers that are mixed up."""

    def emit(n: int) -> float:
        result = perkamo.emit(f"customer_{n}", "purchase.completed", {"amount": n * 100}, transaction_id=f"o{n}")
        return result.wallet_state.get("points", 0)

    with perkamo, ThreadPoolExecutor(16) as pool:
        points = list(pool.map(emit, range(400)))

    assert points == [float(n) for n in range(400)]
