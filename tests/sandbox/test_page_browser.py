"""The sandbox's page in a real headless Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from perkamo import Event, PerkamoClient, PerkamoServerError, RetryPolicy
from perkamo.sandbox import Lost, Sandbox
from tests.sandbox.browser import BACKSPACE, DOWN, ENTER, HOME, TAB, UP, Browser, chromium, missing, wait_for

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a browser is here")

HOSTILE = "<img src=x onerror=\"document.title='taken over'\">"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A new window, of the size of a second screen."""
    with chromium(tmp_path / "profile") as browser:
        browser.size(1440, 1000)
        yield browser


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[PerkamoClient]:
    """A client that tries once."""
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=RetryPolicy(attempts=1)) as client:
        yield client


def test_the_page_shows_what_happens_and_makes_the_next_call_fail(
    sandbox: Sandbox, client: PerkamoClient, browser: Browser, tmp_path: Path
) -> None:
    """Expect a balance to change without a reload, a fault to be armed by keyboard alone, and pictures of the page."""
    client.emit("customer_123", "user.registered", transaction_id="registration")
    browser.open(f"{sandbox.base_url}/")
    wait_for(lambda: "50 Points" in browser.text("#customer-rows"))
    browser.run("window.neverReloaded = true")

    client.emit("customer_123", "purchase.completed", {"amount": 12_900}, transaction_id="order_1")
    wait_for(lambda: "179 Points" in browser.text("#customer-rows"))
    wait_for(lambda: "+129 Points" in browser.text("#events"))
    assert "Free shipping" in browser.text("#customer-rows")
    assert "2 Silver" in browser.text("#customer-rows")

    browser.tab_to("route")
    browser.type(HOME + DOWN + TAB)
    browser.type(DOWN + UP + TAB)
    assert browser.focused() == "value"
    browser.type("502" + TAB)  # Tab selected what was there
    browser.type(ENTER)
    wait_for(lambda: "Status(502)" in browser.text("#armed"))
    assert sandbox.faults.unfired == ("POST /v1/events: Status(502)",)

    with pytest.raises(PerkamoServerError) as failure:
        client.emit("customer_123", "review.created", transaction_id="review_1")
    assert failure.value.status == 502
    wait_for(lambda: "Status(502)" in browser.text("#request-rows"))
    wait_for(lambda: "Nothing is armed" in browser.text("#armed"))
    assert browser.run("return window.neverReloaded") is True

    for scheme in ("light", "dark"):
        browser.color_scheme(scheme)
        browser.screenshot(tmp_path / f"page-{scheme}.png")
        assert (tmp_path / f"page-{scheme}.png").read_bytes().startswith(b"\x89PNG")
    assert browser.complaints() == []


def test_a_fault_is_cleared_by_keyboard(sandbox: Sandbox, browser: Browser) -> None:
    """Expect the button to disarm everything, and the focus to stay on the form instead of falling off the page."""
    sandbox.faults.rate(1.0, Lost(), seed=1)
    browser.open(f"{sandbox.base_url}/")
    wait_for(lambda: "Lost() at a rate of 1" in browser.text("#armed"))

    browser.tab_to("clear")
    browser.type(ENTER)

    wait_for(lambda: "Nothing is armed" in browser.text("#armed"))
    wait_for(lambda: browser.focused() == "route")
    assert sandbox.faults.armed == ()


def test_hostile_text_stays_text(sandbox: Sandbox, client: PerkamoClient, browser: Browser) -> None:
    """Expect an id made of markup to be shown as it is: catches innerHTML with data, wherever the id is shown."""
    browser.open(f"{sandbox.base_url}/")
    client.identify(HOSTILE, {"name": HOSTILE})
    client.emit(HOSTILE, HOSTILE, {"note": HOSTILE}, transaction_id="hostile")

    wait_for(lambda: browser.text("#customer-rows").count(HOSTILE) == 1)
    wait_for(lambda: browser.text("#events").count(HOSTILE) == 2)
    wait_for(lambda: "identify" in browser.text("#request-rows"))

    assert browser.run("return document.title") == "Perkamo sandbox"
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.complaints() == []


def test_markup_that_got_into_the_page_would_be_dead(sandbox: Sandbox, browser: Browser) -> None:
    """Expect the policy to hold in a browser: no foreign script runs, no foreign address is called, no innerHTML."""
    browser.open(f"{sandbox.base_url}/")
    wait_for(lambda: browser.text("#state") == "Live")

    browser.run(
        "const s = document.createElement('script'); s.append(\"document.title = 'taken over'\");"
        "document.body.append(s)"
    )
    blocked = browser.run(
        "try { document.body.innerHTML = '<p>x</p>'; return 'assigned' } catch (error) { return error.name }"
    )
    called = browser.run("return fetch('http://localhost:9/').then(() => 'called', (error) => error.name)")

    assert browser.run("return document.title") == "Perkamo sandbox"
    assert blocked == "TypeError"
    assert called == "TypeError"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


def test_lists_are_bounded_and_any_customer_is_found(sandbox: Sandbox, client: PerkamoClient, browser: Browser) -> None:
    """Expect 200 rows of 350 customers with their true number, the oldest by its id, and the list again afterwards."""
    for first in range(0, 350, 50):
        client.batch(
            [Event(f"user_{number:03}", "review.created", f"review_{number}") for number in range(first, first + 50)]
        )
    browser.open(f"{sandbox.base_url}/")
    wait_for(lambda: browser.text("#customers-shown") == "latest 200 of 350")
    rows = "return document.querySelectorAll('#customer-rows tr').length"
    assert browser.run(rows) == 200
    assert "user_000" not in browser.text("#customer-rows")

    browser.tab_to("find")
    browser.type("R_00")
    wait_for(lambda: browser.text("#customers-shown") == "10 found")
    assert "user_000" in browser.text("#customer-rows")
    client.emit("user_000", "user.registered", transaction_id="found")
    client.emit("user_349", "user.registered", transaction_id="not asked for")
    wait_for(lambda: "70 Points" in browser.text("#customer-rows"))
    assert browser.run(rows) == 10

    browser.type(BACKSPACE * 4)
    wait_for(lambda: browser.run(rows) == 200)
    client.batch([Event(f"late_{number}", "review.created", f"late_{number}") for number in range(50)])
    wait_for(lambda: "late_49" in browser.text("#customer-rows"))
    assert browser.run(rows) == 200


def test_the_page_pauses_resets_and_comes_back(sandbox: Sandbox, client: PerkamoClient, browser: Browser) -> None:
    """Expect nothing to come while paused, everything afterwards, and an empty page after a reset by keyboard."""
    listeners = sandbox._space.ledger._listeners
    unwatched = len(listeners)
    browser.open(f"{sandbox.base_url}/")
    wait_for(lambda: browser.text("#state") == "Live")
    browser.tab_to("pause")
    browser.type(ENTER)
    wait_for(lambda: browser.text("#state") == "Paused")
    wait_for(lambda: len(listeners) == unwatched)
    client.emit("customer_123", "user.registered", transaction_id="registration")
    assert browser.text("#total-events") == "0"

    browser.type(ENTER)
    wait_for(lambda: browser.text("#total-events") == "1")
    browser.type(TAB + ENTER)
    browser.accept()

    wait_for(lambda: "No customers here yet" in browser.text("#customers"))
    wait_for(lambda: browser.text("#total-events") == "0")
    assert sandbox.events() == ()
