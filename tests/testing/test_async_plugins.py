"""testing: one async client works under every plugin that runs async tests, and leaves nothing behind.

Each run turns every warning into an error, so a socket, a loop or a client that is not closed fails it.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.testing.runs import run_pytest

BODY = """
import anyio, pytest, pytest_asyncio
from perkamo import Batcher, PerkamoServerError
from perkamo.sandbox import Status

async def buy(client, user_id="customer_123"):
    return await client.emit(user_id, "purchase.completed", {"amount": 12900})
"""
ASYNC_TESTS = """
from body import *

pytestmark = MARKS

@pytest.mark.parametrize("number", range(3))
async def test_events(number, perkamo_sandbox, async_perkamo_client):
    async with anyio.create_task_group() as group:
        for one in range(5):
            group.start_soon(buy, async_perkamo_client, f"customer_{one}")
    perkamo_sandbox.assert_emitted("purchase.completed", times=5)

async def test_faults(perkamo_sandbox, async_perkamo_client):
    perkamo_sandbox.faults.next("POST /v1/events", Status(503), times=3)
    with pytest.raises(PerkamoServerError):
        await buy(async_perkamo_client)

async def test_cancelled(perkamo_sandbox, async_perkamo_client):
    with anyio.move_on_after(0):
        await buy(async_perkamo_client)
    await buy(async_perkamo_client, "another")
    perkamo_sandbox.assert_emitted("purchase.completed", user_id="another")

async def test_both_clients(perkamo_sandbox, perkamo_client, async_perkamo_client):
    await buy(async_perkamo_client)
    await anyio.to_thread.run_sync(perkamo_client.customer, "customer_123")
    assert len(perkamo_sandbox.requests) == 2

class TestClass:
    async def test_method(self, perkamo_sandbox, async_perkamo_client):
        await buy(async_perkamo_client)
        perkamo_sandbox.assert_emitted("purchase.completed")

async def test_a_stream(perkamo_sandbox, async_perkamo_client):
    async def token():
        return await async_perkamo_client.create_stream_token(perkamo_sandbox.browser_key, "customer_123")

    async with async_perkamo_client.subscribe_customer("customer_123", token) as updates:
        async for update in updates:
            break
    assert update.customer.user_id == "customer_123"

@FIXTURE
async def shop(async_perkamo_client):
    await buy(async_perkamo_client)
    yield async_perkamo_client
    await async_perkamo_client.customer("customer_123")

async def test_through_a_fixture(shop, perkamo_sandbox):
    await buy(shop)
    perkamo_sandbox.assert_emitted("purchase.completed", times=2)

@FIXTURE
async def batcher(async_perkamo_client):
    async with Batcher(async_perkamo_client) as batcher:
        yield batcher

async def test_a_batcher_of_a_fixture(batcher, perkamo_sandbox):
    assert (await buy(batcher)).accepted
    perkamo_sandbox.assert_emitted("purchase.completed")
"""
SYNC_TEST = """
from body import *

def test_sync(perkamo_sandbox, async_perkamo_client):
    anyio.run(buy, async_perkamo_client, "customer_123", backend="asyncio")
    anyio.run(buy, async_perkamo_client, "customer_123", backend="trio")
    perkamo_sandbox.assert_emitted("purchase.completed", times=2)
"""
PER_BACKEND = 10


def check(directory: Path, mark: str, fixture: str, ini: str, *, backends: int = 1) -> None:
    """Run the tests with this mark and this way to make an async fixture."""
    tests = ASYNC_TESTS.replace("MARKS", mark).replace("FIXTURE", fixture)

    run = run_pytest(directory, {"body.py": BODY, "test_async.py": tests, "test_sync.py": SYNC_TEST}, ini=ini)

    assert (run.code, run.counts) == (0, {"passed": PER_BACKEND * backends + 1}), run.text


@pytest.mark.stress
@pytest.mark.parametrize(("mode", "mark"), [("strict", "[pytest.mark.asyncio]"), ("auto", "[]")])
def test_the_client_works_under_pytest_asyncio(mode: str, mark: str, tmp_path: Path) -> None:
    """In its strict mode, with a mark, and in its auto mode, without one."""
    fixture = "pytest_asyncio.fixture" if mode == "strict" else "pytest.fixture"

    check(tmp_path, mark, fixture, f"asyncio_mode = {mode}")


def test_the_client_works_under_anyio(tmp_path: Path) -> None:
    """On its asyncio and on its trio."""
    check(tmp_path, "[pytest.mark.anyio]", "pytest.fixture", "", backends=2)


@pytest.mark.stress
@pytest.mark.skipif(find_spec("pytest_trio") is None, reason="pytest-trio is not installed")
@pytest.mark.parametrize(("mode", "mark"), [("false", "[pytest.mark.trio]"), ("true", "[]")])
def test_the_client_works_under_pytest_trio(mode: str, mark: str, tmp_path: Path) -> None:
    """With a mark, and in its trio mode, without one."""
    check(tmp_path, mark, "pytest.fixture", f"trio_mode = {mode}")


@pytest.mark.stress
def test_a_loop_that_serves_a_whole_session_keeps_no_socket(tmp_path: Path) -> None:
    """60 tests in one loop open no more files than one; catches a run that ends with too many open files."""
    run = run_pytest(
        tmp_path,
        {
            "body.py": BODY,
            "test_session.py": """
                from body import buy, pytest
                from perkamo.transport import sockets

                pytestmark = pytest.mark.asyncio(loop_scope="session")

                @pytest.mark.parametrize("number", range(60))
                async def test_event(number, perkamo_sandbox, async_perkamo_client):
                    await buy(async_perkamo_client)
                    perkamo_sandbox.assert_emitted("purchase.completed")
                    assert len([one for one in sockets._open if one._socket.fileno() >= 0]) == 1
            """,
        },
    )

    assert (run.code, run.counts) == (0, {"passed": 60}), run.text
