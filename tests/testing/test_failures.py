"""testing: how failing tests read, and what they must not show."""

from pathlib import Path

import pytest

from perkamo.sandbox import Sandbox
from tests.testing.runs import run_pytest

BOUGHT = """
    import pytest
    from perkamo.sandbox import Status

    def buy(client, amount=12900):
        client.emit("customer_123", "purchase.completed", {"amount": amount}, transaction_id="order_1")
"""


def test_a_failed_assertion_reads_well(tmp_path: Path) -> None:
    """The test's own line, the differences, no frame of ours, and a short summary that tells the story."""
    run = run_pytest(
        tmp_path,
        {
            "bought.py": BOUGHT,
            "test_bought.py": """
                from bought import *

                def test_bought(perkamo_sandbox, perkamo_client):
                    buy(perkamo_client, 12000)
                    perkamo_sandbox.assert_emitted("purchase.completed", context={"amount": 12900})
            """,
        },
    )

    assert (run.code, run.counts) == (1, {"failed": 1})
    [line] = run.summary
    story = "purchase.completed: found 0, expected exactly 1; the nearest differs in context.amount"
    assert line == f"FAILED test_bought.py::test_bought - AssertionError: {story}"
    assert '>       perkamo_sandbox.assert_emitted("purchase.completed", context={"amount": 12900})' in run.text
    assert "E             context.amount: expected 12900, got 12000" in run.text
    assert "sandbox.py" not in run.text


def test_the_short_summary_says_enough_in_eighty_columns(tmp_path: Path) -> None:
    """Event and count come first; catches a message that begins with a paragraph."""
    source = 'def test_it(perkamo_sandbox):\n    perkamo_sandbox.assert_emitted("purchase.completed")'

    run = run_pytest(tmp_path, {"test_a.py": source}, columns=80)

    assert run.summary == ["FAILED test_a.py::test_it - AssertionError: purchase.completed: found 0, expe..."]


@pytest.mark.stress
def test_a_fault_that_never_fired_fails_a_test_that_passes_otherwise(tmp_path: Path) -> None:
    """It says which, without our source; one that failed already keeps its own reason alone."""
    run = run_pytest(
        tmp_path,
        {
            "bought.py": BOUGHT,
            "test_faults.py": """
                from bought import *

                def arm(sandbox):
                    sandbox.faults.next("POST /v1/events", Status(503))

                def test_fired(perkamo_sandbox, perkamo_client):
                    arm(perkamo_sandbox)
                    buy(perkamo_client)

                def test_unfired(perkamo_sandbox):
                    arm(perkamo_sandbox)

                def test_failed(perkamo_sandbox):
                    arm(perkamo_sandbox)
                    assert False, "its own reason"

                def test_next(perkamo_sandbox, perkamo_client):
                    buy(perkamo_client)
                    assert len(perkamo_sandbox.requests) == 1

                def test_skipped(perkamo_sandbox):
                    arm(perkamo_sandbox)
                    pytest.skip("not here")

                @pytest.mark.xfail
                def test_expected_to_fail(perkamo_sandbox):
                    arm(perkamo_sandbox)
                    assert False

                @pytest.fixture
                def not_here(perkamo_sandbox):
                    arm(perkamo_sandbox)
                    pytest.skip("not here")

                def test_skipped_by_a_fixture(not_here):
                    pass

                @pytest.fixture
                def late(perkamo_client):
                    yield
                    buy(perkamo_client)

                def test_fires_while_the_tests_own_fixtures_end(perkamo_sandbox, late):
                    arm(perkamo_sandbox)
            """,
        },
    )

    assert run.counts == {"passed": 4, "failed": 1, "error": 1, "skipped": 2, "xfailed": 1}, run.text
    assert sorted(run.summary) == [
        "ERROR test_faults.py::test_unfired - Failed: armed faults never fired: POST /v1/events: Status(503)",
        "FAILED test_faults.py::test_failed - AssertionError: its own reason",
    ]
    assert "pytest.fail" not in run.text


@pytest.mark.stress
def test_no_failure_shows_the_key(tmp_path: Path) -> None:
    """Not with every local of every frame; catches a key in a repr, in a frame's locals, or in an error."""
    run = run_pytest(
        tmp_path,
        {
            "bought.py": BOUGHT,
            "test_keys.py": """
                import anyio
                from bought import *

                def test_assertion(perkamo_sandbox, perkamo_client, async_perkamo_client):
                    perkamo_sandbox.assert_emitted("purchase.completed")

                def test_refused(perkamo_sandbox, perkamo_client):
                    perkamo_sandbox.faults.next("POST /v1/events", Status(401))
                    buy(perkamo_client)

                def test_async(perkamo_sandbox, async_perkamo_client):
                    perkamo_sandbox.faults.next("POST /v1/events", Status(403))
                    anyio.run(async_perkamo_client.emit, "customer_123", "purchase.completed")

                def test_logged(perkamo_sandbox, perkamo_client):
                    buy(perkamo_client)
                    assert perkamo_sandbox.requests == perkamo_sandbox.events()

                @pytest.mark.perkamo(program={"rules": 1})
                def test_mark(perkamo_sandbox):
                    pass
            """,
        },
        *("--showlocals", "--full-trace", "-vv", "--log-level=DEBUG", "--tb=long"),
    )

    assert run.counts == {"failed": 4, "error": 1}, run.text
    sandbox = Sandbox()
    assert sandbox.api_key not in run.text
    assert sandbox.browser_key not in run.text
