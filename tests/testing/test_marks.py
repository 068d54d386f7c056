"""testing: the mark gives a test its program and its time; whatever a test leaves behind is gone in the next."""

from pathlib import Path

import pytest

from tests.testing.runs import run_pytest

PROGRAMS = """
    from datetime import UTC, datetime, timedelta
    import pytest

    def program(amount):
        reward = {"wallet": "points", "amount": amount}
        return {
            "wallets": [{"key": "points", "name": "Points"}],
            "earningRules": [{"event": "e", "label": "E", "reward": reward}],
        }

    JUNE = datetime(2026, 6, 1, tzinfo=UTC)
    JULY = datetime(2026, 7, 1, tzinfo=UTC)

    def earned(client):
        return {change.wallet: change.amount for change in client.emit("a", "e").delta}
"""


@pytest.mark.stress
def test_the_closest_mark_that_names_an_argument_decides_about_it(tmp_path: Path) -> None:
    """Module, class, method; None brings back the default; catches a mark that is forgotten or sticks."""
    run = run_pytest(
        tmp_path,
        {
            "programs.py": PROGRAMS,
            "test_module.py": """
                from programs import *

                pytestmark = pytest.mark.perkamo(program=program(1), now=JUNE)

                def test_module(perkamo_client, perkamo_sandbox):
                    assert (earned(perkamo_client), perkamo_sandbox.clock.now()) == ({"points": 1}, JUNE)

                @pytest.mark.perkamo(program=program(2))
                class TestClass:
                    def test_class(self, perkamo_client, perkamo_sandbox):
                        assert (earned(perkamo_client), perkamo_sandbox.clock.now()) == ({"points": 2}, JUNE)

                    @pytest.mark.perkamo(program=program(3), now=JULY)
                    def test_method(self, perkamo_client, perkamo_sandbox):
                        assert (earned(perkamo_client), perkamo_sandbox.clock.now()) == ({"points": 3}, JULY)

                    @pytest.mark.perkamo(now=None)
                    def test_default(self, perkamo_client, perkamo_sandbox):
                        assert (earned(perkamo_client), perkamo_sandbox.clock.frozen) == ({"points": 2}, False)

                def test_module_again(perkamo_client, perkamo_sandbox):
                    assert (earned(perkamo_client), perkamo_sandbox.clock.now()) == ({"points": 1}, JUNE)

                @pytest.mark.perkamo(program=None, now=None)
                def test_shop(perkamo_client, perkamo_sandbox):
                    assert (earned(perkamo_client), perkamo_sandbox.clock.frozen) == ({}, False)
            """,
            "test_plain.py": """
                from programs import *

                def test_plain(perkamo_client, perkamo_sandbox):
                    assert (earned(perkamo_client), perkamo_sandbox.clock.frozen) == ({}, False)
                    assert perkamo_client.emit("a", "purchase.completed", {"amount": 200}).accepted

                @pytest.mark.parametrize("amount", [
                    pytest.param(5, marks=pytest.mark.perkamo(program=program(5))),
                    pytest.param(6, marks=pytest.mark.perkamo(program=program(6))),
                ])
                def test_parameter(amount, perkamo_client):
                    assert earned(perkamo_client) == {"points": amount}
            """,
        },
    )

    assert (run.code, run.counts) == (0, {"passed": 9}), run.text


WRONG_MARKS = {
    "{}": "takes keyword arguments only",
    "programme={}": "takes no argument programme",
    "program=3": "program in @pytest.mark.perkamo(program=…, now=…) must be a mapping or JSON, not int",
    "program={'rules': 1}": "is wrong: program.wallets must name at least one wallet",
    "program='{'": "program is not JSON",
    "now='2026-06-01'": "must be a datetime with a zone, not str",
    "now=datetime(2026, 6, 1)": "the time needs a zone",
}


@pytest.mark.stress
def test_a_wrong_mark_is_a_clear_error_of_its_own_test(tmp_path: Path) -> None:
    """A usage error that says what is wrong, in the last lines too; other tests run."""
    tests = [
        f"@pytest.mark.perkamo({given})\ndef test_{number}(perkamo_client): pass"
        for number, given in enumerate(WRONG_MARKS)
    ]
    right = "def test_right(perkamo_client): perkamo_client.program()"
    source = "\n".join(["from datetime import datetime\nimport pytest", *tests, right])

    run = run_pytest(tmp_path, {"test_marks.py": source}, columns=400)

    assert (run.code, run.counts) == (1, {"passed": 1, "error": len(WRONG_MARKS)}), run.text
    for line, message in zip(run.summary, WRONG_MARKS.values(), strict=True):
        assert " - pytest.UsageError: " in line
        assert message in line


def test_the_mark_is_registered(tmp_path: Path) -> None:
    """With --strict-markers, as all runs here have it, and in the list; catches an unknown mark."""
    run = run_pytest(tmp_path, {"test_none.py": ""}, "--markers")

    assert "@pytest.mark.perkamo(program=None, now=None): " in run.text


def test_nothing_of_one_test_is_left_in_the_next(tmp_path: Path) -> None:
    """In either order; catches events, requests, faults, time, handlers and traits that stay."""
    run = run_pytest(
        tmp_path,
        {
            "test_order.py": """
                import pytest
                from perkamo.sandbox import Status

                @pytest.mark.parametrize("number", range(3))
                def test_first(number, perkamo_sandbox, perkamo_client):
                    sandbox = perkamo_sandbox
                    assert (sandbox.events(), sandbox.requests, sandbox.faults.unfired) == ((), (), ())
                    assert not sandbox.clock.frozen
                    assert perkamo_client.customer("a").traits == {}
                    perkamo_client.identify("a", {"plan": "premium"})
                    sandbox.faults.rate(1, Status(503), seed=1)
                    with pytest.raises(Exception):
                        perkamo_client.emit("a", "user.registered", transaction_id="t")
                    sandbox.faults.clear()
                    assert perkamo_client.emit("a", "user.registered", transaction_id="t").applied
                    sandbox.clock.freeze()
                    sandbox.faults.rate(1, Status(404), seed=1, route="GET /v1/program")
                    with pytest.raises(Exception):
                        perkamo_client.program()
            """
        },
    )

    assert (run.code, run.counts) == (0, {"passed": 3}), run.text


@pytest.mark.stress
def test_one_sandbox_serves_all_programs_of_a_process(tmp_path: Path) -> None:
    """One port and one thread, whatever the marks say; catches a thread for every program."""
    run = run_pytest(
        tmp_path,
        {
            "programs.py": PROGRAMS,
            "test_programs.py": """
                import threading
                from programs import *

                seen = set()

                @pytest.mark.parametrize("amount", [
                    pytest.param(n, marks=pytest.mark.perkamo(program=program(n))) for n in range(1, 21)
                ])
                def test_program(amount, perkamo_client, perkamo_sandbox):
                    assert earned(perkamo_client) == {"points": amount}
                    seen.add(perkamo_sandbox.base_url)
                    assert len(seen) == 1
                    assert sum(thread.name == "perkamo-sandbox" for thread in threading.enumerate()) == 1
            """,
        },
    )

    assert (run.code, run.counts) == (0, {"passed": 20}), run.text
