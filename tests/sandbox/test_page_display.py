"""The sandbox's page in a browser: that it is safe, bounded, accessible and fits a small screen."""

import os
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from perkamo import PerkamoApiError, PerkamoClient, PerkamoConnectionError, RetryPolicy
from perkamo.sandbox import Lost, Sandbox, Status
from tests.sandbox.browser import BACKSPACE, ENTER, TAB, Browser, missing, wait_for
from tests.sandbox.browsing import ESCAPE, EVENTS, click, show
from tests.sandbox.crowd import fill

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a browser is here")

HOSTILE = "<img src=x onerror=\"document.title='taken over'\">"


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[PerkamoClient]:
    """A client that tries once."""
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=RetryPolicy(attempts=1)) as client:
        yield client


def test_hostile_text_stays_text(sandbox: Sandbox, client: PerkamoClient, browser: Browser) -> None:
    """Expect markup to be shown as it is in every list and every detail: catches innerHTML with data."""
    show(browser, sandbox)
    client.identify(HOSTILE, {"name": HOSTILE})
    client.emit(HOSTILE, HOSTILE, {"note": HOSTILE}, transaction_id=HOSTILE)
    wait_for(lambda: browser.text("#customer-rows").count(HOSTILE) == 1)
    wait_for(lambda: browser.text("#events").count(HOSTILE) == 3)

    for selector in ("#events button", "#customer-rows button", "#request-rows button"):
        click(browser, selector)
        wait_for(lambda: HOSTILE in browser.text("#detail-body").replace('\\"', '"'))
        browser.type(ESCAPE)

    assert browser.run("return document.title") == "Perkamo sandbox"
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.complaints() == []


def test_markup_that_got_into_the_page_would_be_dead(sandbox: Sandbox, browser: Browser) -> None:
    """Expect the policy to hold in a browser: no foreign script runs, no foreign address is called, no innerHTML."""
    show(browser, sandbox)

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


def test_an_empty_page_says_what_to_type(sandbox: Sandbox, browser: Browser) -> None:
    """Expect the two export lines and an emit that work as they are copied."""
    show(browser, sandbox)

    lines = browser.text("#type-this").splitlines()
    assert lines[:2] == [
        f"export PERKAMO_BASE_URL={sandbox.base_url}",
        f"export PERKAMO_SECRET_KEY={sandbox.api_key}",
    ]
    assert lines[2] == "perkamo emit customer_123 purchase.completed amount=12900 --transaction-id order_1"
    browser.run("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    click(browser, "#copy-type")
    wait_for(lambda: browser.run("return window.copied") == "\n".join(lines))


def test_a_server_that_is_gone_is_told_and_found_again(browser: Browser) -> None:
    """Expect what it had to stay, with a sentence, and the page to go on when it is back on its port."""
    with Sandbox() as sandbox, PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        client.emit("customer_123", "user.registered", transaction_id="registration")
        show(browser, sandbox)
        wait_for(lambda: "customer_123" in browser.text("#customer-rows"))
        port = urlsplit(sandbox.base_url).port
    wait_for(lambda: "does not answer: it was stopped" in browser.text("#gone"))
    assert browser.text("#state") == "Gone"
    assert "customer_123" in browser.text("#customer-rows")

    with Sandbox(port=port or 0) as again:
        wait_for(lambda: browser.text("#state") == "Live")
        wait_for(lambda: browser.text("#total-events") == "0")
        assert browser.run("return document.getElementById('gone').hidden") is True
        again.faults.clear()


@pytest.mark.release
def test_the_first_view_of_100_000_events_is_bounded(browser: Browser) -> None:
    """Expect 200 rows of each, a bounded page and message, and any customer and event to be found by a filter."""
    with Sandbox() as sandbox, PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as client:
        fill(sandbox)
        show(browser, sandbox)
        wait_for(lambda: browser.text("#events-shown") == "latest 200 of 100,000")

        assert browser.text("#customers-shown") == "latest 200 of 10,000"
        nodes = browser.run("return document.querySelectorAll('*').length")
        assert isinstance(nodes, int)
        assert nodes < 9000
        resources = browser.run("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert isinstance(resources, list)
        assert len(resources) <= 3
        client.emit("customer_00000", "user.registered", transaction_id="late")
        wait_for(lambda: "+50 Points" in browser.text("#events"))
        rows = "return document.querySelectorAll(arguments[0]).length"
        assert browser.run(rows, "#events li") == 200

        show(browser, sandbox, "?customer=_0012")
        wait_for(lambda: "10 match" in browser.text("#customers-shown"))
        assert "customer_00120" in browser.text("#events")
        show(browser, sandbox, "?text=%22n%22:77777")
        wait_for(lambda: browser.run(rows, "#events li") == 1)
        assert "t77777" in browser.text("#events")
        show(browser, sandbox, "?open=customer:customer_07777")
        wait_for(lambda: "History, 10" in browser.text("#detail-body"))


ACTS = {
    "lists": "",
    "a request": "?open=request:1",
    "an event": "?open=event:2",
    "a customer": "?open=customer:customer_123",
    "filtered": "?customer=nobody",
}


@pytest.mark.stress
@pytest.mark.skipif(find_spec("axe_core_python") is None, reason="axe-core is not installed: axe-core-python")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, sandbox: Sandbox, client: PerkamoClient, browser: Browser) -> None:
    """Expect no violation in any state of the page, at both widths: contrast, names, roles, order, focus."""
    axe = files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")
    busy(sandbox, client)
    browser.color_scheme(scheme)
    for query in ACTS.values():
        show(browser, sandbox, query)
        wait_for(lambda query=query: browser.run("return document.getElementById('detail').open") is ("open" in query))  # type: ignore[misc]
        assert "no longer kept" not in browser.text("#detail-body")
        browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
        browser.run(axe)
        for width in (1400, 420):
            browser.size(width, 900)
            found = browser.run(
                "return axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]))"
            )
            assert found == [], (query, width)
    sandbox.faults.clear()


def busy(sandbox: Sandbox, client: PerkamoClient) -> None:
    """A bit of everything that the page shows."""
    client.identify("customer_123", {"name": "Ada", "plan": "premium"})
    client.emit("customer_123", "user.registered", transaction_id="registration")
    for number, amount in enumerate((12_900, 45_000, 990)):
        client.emit("customer_123", "purchase.completed", {"amount": amount}, transaction_id=f"order_{number}")
    client.emit("customer_123", "purchase.completed", {"amount": 990}, transaction_id="order_2")
    client.emit("customer_7", "page.viewed", {"path": "/pricing"}, transaction_id="view_1")
    client.emit("customer_7", "purchase.completed", {"total": 5}, transaction_id="order_7")
    client.emit("customer_123", "purchase.refunded", {"amount": 990}, transaction_id="refund_1")
    client.customer("customer_123")
    sandbox.faults.next(EVENTS, Lost())
    with pytest.raises(PerkamoConnectionError):
        client.emit("customer_7", "review.created", transaction_id="review_1")
    with pytest.raises(PerkamoApiError):
        client.request("POST", "/v1/events", {"user_id": "customer_7", "event": "review.created"})
    sandbox.faults.next(EVENTS, Status(503), times=2)
    sandbox.faults.rate(0.1, Lost(), seed=1)


def test_everything_is_reached_by_keyboard(sandbox: Sandbox, client: PerkamoClient, browser: Browser) -> None:
    """Expect skip links first, then every control in turn, and the focus back in place after a detail was closed."""
    client.emit("customer_123", "user.registered", transaction_id="registration")
    show(browser, sandbox)
    wait_for(lambda: "customer_123" in browser.text("#customer-rows"))

    browser.type(TAB)
    assert browser.run("return document.activeElement.textContent") == "Skip to the events"
    browser.type(TAB + TAB + ENTER)
    wait_for(lambda: browser.focused() == "faults-panel")
    for wanted in ("route", "kind", "value", "times"):
        browser.tab_to(wanted)
    browser.run("document.querySelector('#events button').focus()")
    browser.type(ENTER)
    wait_for(lambda: browser.run("return document.getElementById('detail').open") is True)
    browser.tab_to("close")
    browser.type(ENTER)
    wait_for(lambda: browser.run("return document.getElementById('detail').open") is False)
    assert browser.run("return document.activeElement.textContent") == "user.registered"


@pytest.mark.stress
def test_nothing_is_cut_at_420_pixels_and_pictures_are_left(
    sandbox: Sandbox, client: PerkamoClient, browser: Browser, tmp_path: Path
) -> None:
    """Expect no sideways scrolling, whatever is open; pictures of both widths, light and dark, for people."""
    pictures = Path(os.environ.get("PERKAMO_SCREENSHOTS", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    busy(sandbox, client)
    wide = (
        "return [...document.querySelectorAll('body, body *')].filter((one) => one.scrollWidth > one.clientWidth + 1"
        " && getComputedStyle(one).overflowX !== 'visible' && !one.matches('.unseen, .clip, input, select'))"
        ".map((one) => one.id || one.className || one.tagName)"
    )
    for name, query in ACTS.items():
        show(browser, sandbox, query)
        wait_for(lambda query=query: browser.run("return document.getElementById('detail').open") is ("open" in query))  # type: ignore[misc]
        for width, height in ((1400, 1000), (420, 900)):
            browser.size(width, height)
            assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), (name, width)
            assert browser.run(wide) == [], (name, width)
            for scheme in ("light", "dark"):
                browser.color_scheme(scheme)
                picture = pictures / f"{re.sub(' ', '-', name)}-{width}-{scheme}.png"
                browser.screenshot(picture)
                assert picture.read_bytes().startswith(b"\x89PNG")
    sandbox.faults.clear()
    browser.type(BACKSPACE)
