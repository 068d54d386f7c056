"""testing: 200 tests in eight workers of pytest-xdist at the same time, five times; no port conflict, no shared state.

All of them use the same customer, the same transaction ids and the same faults, so that whatever one leaves to another
is seen.
"""

from pathlib import Path

import pytest

from perkamo.sandbox import Sandbox
from tests.testing.runs import Run, run_pytest

TESTS = """
    import os
    from datetime import UTC, datetime

    import anyio
    import pytest

    from perkamo import PerkamoServerError
    from perkamo.sandbox import Lost, Status

    JUNE = datetime(2026, 6, 1, 10, 0, tzinfo=UTC)
    STARS = {
        "wallets": [{"key": "stars", "name": "Stars"}],
        "earningRules": [{"event": "purchase.completed", "label": "B", "reward": {"wallet": "stars", "amount": 7}}],
    }
    NUMBERS = pytest.mark.parametrize("number", range(40))

    def assert_new(sandbox):
        assert (sandbox.events(), sandbox.requests, sandbox.faults.unfired) == ((), (), ())

    def buy(client):
        result = client.emit("customer_123", "purchase.completed", {"amount": 12900}, transaction_id="order_1")
        assert result.applied and not result.duplicate
        return dict(result.wallet_state)

    @NUMBERS
    def test_emit(number, perkamo_sandbox, perkamo_client):
        assert_new(perkamo_sandbox)
        assert buy(perkamo_client) == {"points": 129}
        assert not perkamo_sandbox.clock.frozen
        perkamo_sandbox.clock.advance(100 * number)
        perkamo_sandbox.assert_emitted("purchase.completed", user_id="customer_123", context={"amount": 12900})

    @NUMBERS
    def test_async(number, perkamo_sandbox, async_perkamo_client):
        assert_new(perkamo_sandbox)

        async def main():
            async with anyio.create_task_group() as group:
                for one in range(5):
                    group.start_soon(async_perkamo_client.emit, "customer_123", "user.registered")

        anyio.run(main, backend=["asyncio", "trio"][number % 2])
        perkamo_sandbox.assert_emitted("user.registered", times=5)
        assert perkamo_sandbox.customer("customer_123").wallets == {"points": 250}

    @NUMBERS
    def test_faults(number, perkamo_sandbox, perkamo_client):
        assert_new(perkamo_sandbox)
        perkamo_sandbox.faults.next("POST /v1/events", Status(503), times=3)
        with pytest.raises(PerkamoServerError):
            buy(perkamo_client)
        perkamo_sandbox.faults.rate(1, Lost(), seed=number, route="POST /v1/identify")
        with pytest.raises(Exception):
            perkamo_client.identify("customer_123", {"plan": "premium"})

    @pytest.mark.perkamo(program=STARS, now=JUNE)
    @NUMBERS
    def test_mark(number, perkamo_sandbox, perkamo_client):
        assert_new(perkamo_sandbox)
        assert perkamo_sandbox.clock.now() == JUNE
        assert buy(perkamo_client) == {"stars": 7}
        perkamo_sandbox.clock.advance(60 * number)

    @NUMBERS
    def test_traits(number, perkamo_sandbox, perkamo_client):
        assert_new(perkamo_sandbox)
        assert perkamo_client.customer("customer_123").traits == {}
        perkamo_client.identify("customer_123", {"number": number})
        assert perkamo_client.customer("customer_123").traits == {"number": number}
"""
PLANTED = {
    "state": """
        from perkamo.sandbox import Sandbox

        Sandbox.renew = lambda self, program=None, *, now=None: None
    """,
    "port": """
        from perkamo.sandbox import Sandbox

        build = Sandbox.__init__

        def __init__(self, program=None, **options):
            build(self, program, **{**options, "port": PORT})

        Sandbox.__init__ = __init__
    """,
}


def run_tests(directory: Path, workers: int, planted: str = "") -> Run:
    """Run all of them once."""
    files = {"test_shop.py": TESTS, "conftest.py": planted}
    return run_pytest(directory, files, "-n", str(workers), "-p", "no:trio")  # which loads hypothesis


@pytest.mark.release
@pytest.mark.parametrize("time", range(1, 6))
def test_eight_workers_share_nothing(time: int, tmp_path: Path) -> None:
    """200 of 200 pass, each time."""
    run = run_tests(tmp_path, 8)

    assert (run.code, run.counts) == (0, {"passed": 200}), f"run {time}: {run.text}"


@pytest.mark.release
@pytest.mark.parametrize("bug", PLANTED)
def test_the_test_of_workers_sees_what_is_shared(bug: str, perkamo_sandbox: Sandbox, tmp_path: Path) -> None:
    """The control: with state that is kept, or a port that is another's, many of them fail."""
    taken = perkamo_sandbox.base_url.rpartition(":")[2]

    run = run_tests(tmp_path, 2, PLANTED[bug].replace("PORT", taken))

    assert run.code == 1, run.text
    assert run.counts.get("failed", 0) + run.counts.get("error", 0) >= 50, run.text
