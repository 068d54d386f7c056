"""The mark perkamo_faults: what it finds, and what it says."""

import re
from pathlib import Path

import pytest

from tests.testing.runs import PER_REQUEST, Run, run_pytest

SHOP = """
import json, threading, uuid
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from perkamo import PerkamoError

ALLOWED = dict(allow=PerkamoError, limit=9, seed=5)

def buy(client, order="order_1"):
    client.emit("customer_1", "purchase.completed", {"amount": 12900}, transaction_id=order)

def make_id(right):
    return "order_1" if right else f"tx_{uuid.uuid4()}"

@pytest.fixture
def carts():
    '''The shop's database: which order a cart became.'''
    return {}

@pytest.fixture
def hooks(perkamo_sandbox, perkamo_client, right):
    '''A server that thanks for each purchase it is told of.'''
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            told = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if told["type"] == "purchase.completed":
                thanks = f"thanks_{told['data']['transaction_id']}" if right else make_id(right)
                perkamo_client.emit("customer_1", "review.created", transaction_id=thanks)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    perkamo_sandbox.webhooks.send_to(f"http://127.0.0.1:{server.server_port}/")
    yield
    server.shutdown()
    server.server_close()
    thread.join()

@pytest.mark.parametrize("right", [True, False])
@pytest.mark.perkamo_faults(limit=12, seed=1)
def test_ids(right, perkamo_sandbox, perkamo_client):
    for _ in range(3):
        try:
            return buy(perkamo_client, make_id(right))
        except PerkamoError:
            continue

@pytest.mark.parametrize("right", [True, False])
@pytest.mark.perkamo_faults(**ALLOWED)
def test_errors(right, perkamo_sandbox, perkamo_client):
    with suppress(*([] if right else [PerkamoError])):
        buy(perkamo_client)

@pytest.mark.parametrize("right", [True, False])
@pytest.mark.perkamo_faults(**ALLOWED)
def test_order(right, perkamo_sandbox, perkamo_client, carts):
    order = carts.get("cart", f"order_{uuid.uuid4()}")
    if right:
        carts["cart"] = order
    buy(perkamo_client, order)
    carts["cart"] = order

@pytest.mark.parametrize("right", [True, False])
@pytest.mark.perkamo_faults(allow=PerkamoError)
def test_hooks(right, perkamo_sandbox, perkamo_client, hooks):
    buy(perkamo_client)
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run over all planted bugs, each beside the same code without it."""
    return run_pytest(tmp_path_factory.mktemp("planted"), {"test_shop.py": SHOP}, "-rA")


BUGS = {
    "test_ids": "found 2, expected exactly 1",
    "test_errors": "found 0, expected exactly 1",
    "test_order": "which is allowed, and a second run does not repair it",
    "test_hooks": "webhook #1: delivered twice\n  review.created: found 2, expected exactly 1",
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("test", BUGS)
def test_a_planted_bug_is_found_and_right_code_passes(test: str, planted: Run) -> None:
    """A random id, a swallowed error, an emit before the order is saved, a handler that is not repeatable."""
    assert f"FAILED test_shop.py::{test}[False]" in planted.text
    assert f"PASSED test_shop.py::{test}[True]" in planted.text
    section = planted.text.partition(f"___ {test}[False] ___")[2].partition("\n___")[0]
    assert BUGS[test] in section


def test_a_failure_says_how_to_run_the_pair_alone(planted: Run, tmp_path: Path) -> None:
    """The line is pasted as it is: one test, one fault, the same failure; catches a line that selects nothing."""
    line = re.search(
        r"run it alone: pytest '(test_shop.py::test_errors\[False\])' --perkamo-fault '(.+)'", planted.text
    )
    assert line is not None

    run = run_pytest(
        tmp_path, {"test_shop.py": SHOP.replace("limit=ONLY_HOOKS", "")}, line[1], "--perkamo-fault", line[2]
    )

    assert run.counts == {"failed": 1}
    assert "1 fault, 1 difference, " in run.text
    assert f"\n{line[2]}\n" in run.text


def test_the_summary_has_a_line_for_each_test(planted: Run) -> None:
    """Passed and failed, how many faults of how many and how long; catches a search that nobody hears of."""
    lines = planted.text.partition("= perkamo faults =")[2].splitlines()
    told = [line.partition(": ") for line in lines if line.startswith("test_shop.py::")]

    assert len(told) == 8
    assert all(re.fullmatch(r"\d+ faults?( of \d+)?, \d+ differences?, [0-9.]+ s", text) for _, _, text in told)
    assert f"test_shop.py::test_errors[True]: 9 faults of {PER_REQUEST}, 0 differences" in planted.text


@pytest.mark.stress
def test_wrong_marks_and_options_are_reported(tmp_path: Path) -> None:
    """What is wrong, in the test's own report; catches a mark that does nothing without a word."""
    run = run_pytest(
        tmp_path,
        {
            "test_wrong.py": """
                import pytest
                faults = pytest.mark.perkamo_faults

                @faults(5)
                def test_positional(perkamo_sandbox): pass
                @faults(retries=5)
                def test_unknown(perkamo_sandbox): pass
                @faults(allow=5)
                def test_allow(perkamo_sandbox): pass
                @faults(depth=0)
                def test_depth(perkamo_sandbox): pass
                @faults
                def test_sandbox(): pass
                @faults
                def test_skipped(perkamo_sandbox): pytest.skip("not today")
                @faults
                def test_failing(perkamo_sandbox): assert False, "as always"
                @faults
                def test_nothing(perkamo_sandbox): pass
                def test_after(perkamo_sandbox): assert perkamo_sandbox.requests == ()
            """
        },
    )

    assert run.counts == {"failed": 1, "passed": 2, "skipped": 1, "error": 5}
    for text in (
        "takes keyword arguments only",
        "takes no argument retries",
        "allow must be an error class",
        "'depth' must be >= 1",
    ):
        assert text in run.text
    assert "needs the fixture perkamo_sandbox" in run.text
    assert "During handling" not in run.text
    assert "test_nothing: 0 faults, 0 differences, " in run.text
    wrong = run_pytest(tmp_path, {}, "test_wrong.py::test_nothing", "--perkamo-fault", "POST /v1/events #1: lost")
    assert "--perkamo-fault: what may happen to POST /v1/events #1 is: refused with 400" in wrong.text
    never = run_pytest(
        tmp_path, {}, "test_wrong.py::test_nothing", "--perkamo-fault", "POST /v1/events #1: answer lost"
    )
    assert "was never reached: the flow does not make this request" in never.text


@pytest.mark.stress
def test_a_known_bug_can_be_marked_as_expected(tmp_path: Path) -> None:
    """Expect a difference to be the expected failure, and none a surprise; catches one that is strict and not tried."""
    run = run_pytest(
        tmp_path,
        {
            "test_shop.py": """
                import pytest
                from perkamo import PerkamoError
                strict = pytest.mark.xfail(strict=True)
                faults = pytest.mark.perkamo_faults(allow=PerkamoError, limit=9, seed=5)

                def buy(client, **ids):
                    client.emit("customer_1", "purchase.completed", {"amount": 12900}, **ids)

                @strict
                @faults
                def test_wrong(perkamo_client): buy(perkamo_client)
                @strict
                @faults
                def test_right(perkamo_client): buy(perkamo_client, transaction_id="order_1")
                @pytest.mark.xfail
                @faults
                def test_loose(perkamo_client): buy(perkamo_client)
            """
        },
        "-rA",
    )

    assert run.counts == {"failed": 1, "xfailed": 2}, run.text
    assert "[XPASS(strict)]" in run.text
    assert "FAILED test_shop.py::test_right" in run.text
    assert f"test_right: 9 faults of {PER_REQUEST}, 0 differences" in run.text


@pytest.mark.stress
def test_a_fixture_of_a_wider_scope_is_torn_down_before_the_next_module(tmp_path: Path) -> None:
    """Its errors are told, and the next module finds nothing standing; catches runs that leave the last one's up."""
    run = run_pytest(
        tmp_path,
        {
            "test_a.py": """
                import pytest
                @pytest.fixture(scope="module")
                def wide():
                    yield
                    raise RuntimeError("at the end of the module")
                @pytest.mark.perkamo_faults(limit=2, allow=Exception)
                def test_one(wide, perkamo_client): perkamo_client.program()
            """,
            "test_b.py": "def test_two(perkamo_client): perkamo_client.program()",
        },
    )

    assert run.counts == {"passed": 2, "error": 1}
    assert "at the end of the module" in run.text
