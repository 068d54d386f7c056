"""The sandbox's page in a real headless Chromium: each thing that one opens it for, once."""

import json
import os
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from perkamo import PerkamoApiError, PerkamoClient, PerkamoConnectionError, PerkamoServerError, RetryPolicy
from perkamo.sandbox import Lost, Sandbox, Status
from tests.sandbox.browser import BACKSPACE, DOWN, ENTER, HOME, TAB, UP, Browser, chromium, missing, wait_for
from tests.sandbox.crowd import fill

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a browser is here")

HOSTILE = "<img src=x onerror=\"document.title='taken over'\">"
ESCAPE = "\ue00c"
EVENTS = "POST /v1/events"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for the tests of this module."""
    with chromium(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def browser(window: Browser) -> Browser:
    """Its window, on an empty page, of the size of a second screen, with nothing in its console."""
    window.open("about:blank")
    window.color_scheme("light")
    window.size(1440, 1000)
    window.complaints()
    return window


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[PerkamoClient]:
    """A client that tries once."""
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=RetryPolicy(attempts=1)) as client:
        yield client


def show(browser: Browser, sandbox: Sandbox, query: str = "") -> None:
    """Open the page, and wait until it has shown what is there."""
    browser.open(f"{sandbox.base_url}/{query}")
    wait_for(lambda: browser.text("#state") == "Live" and browser.text("#name") != "")


def click(browser: Browser, selector: str, text: str = "") -> None:
    """Click the first element with this text."""
    found = browser.run(
        "const found = [...document.querySelectorAll(arguments[0])];"
        "const one = found.find((one) => one.innerText.includes(arguments[1]));"
        "one?.click(); return Boolean(one)",
        selector,
        text,
    )
    assert found, f"there is no {selector} with {text!r}"


def query_of(browser: Browser) -> str:
    """What the address bar says behind the path."""
    return urlsplit(str(browser.run("return location.href"))).query


def test_the_page_shows_what_happens_and_makes_the_next_call_fail(
    sandbox: Sandbox, client: PerkamoClient, browser: Browser
) -> None:
    """Expect a balance to change without a reload, and a fault to be armed by keyboard alone."""
    client.emit("customer_123", "user.registered", transaction_id="registration")
    show(browser, sandbox)
    wait_for(lambda: "50 Points" in browser.text("#customer-rows"))
    browser.run("window.neverReloaded = true")

    client.emit("customer_123", "purchase.completed", {"amount": 12_900}, transaction_id="order_1")
    wait_for(lambda: "179 Points" in browser.text("#customer-rows"))
    wait_for(lambda: "+129 Points" in browser.text("#events"))
    assert "Free shipping" in browser.text("#customer-rows")
    assert "2 Silver" in browser.text("#customer-rows")
    assert "order_1" in browser.text("#events")

    browser.tab_to("route")
    browser.type(HOME + DOWN + TAB)
    browser.type(DOWN + UP + TAB)
    assert browser.focused() == "value"
    browser.type("502" + TAB)  # Tab selected what was there
    browser.type(ENTER)
    wait_for(lambda: "The next call of POST /v1/events is answered with status 502" in browser.text("#armed"))
    assert sandbox.faults.unfired == ("POST /v1/events: Status(502)",)

    with pytest.raises(PerkamoServerError) as failure:
        client.emit("customer_123", "review.created", transaction_id="review_1")
    assert failure.value.status == 502
    wait_for(lambda: "Status(502)" in browser.text("#request-rows"))
    wait_for(lambda: "Nothing is armed" in browser.text("#armed"))
    assert browser.run("return window.neverReloaded") is True
    assert browser.complaints() == []


def test_an_answer_is_shown_whole_and_copied_with_one_key(
    sandbox: Sandbox, client: PerkamoClient, browser: Browser
) -> None:
    """Expect status, message, request id, time, headers and JSON of a refusal and of a GET, by keyboard."""
    with pytest.raises(PerkamoApiError) as refused:
        client.request("POST", "/v1/events", {"user_id": "customer_123", "event": "purchase.completed"})
    client.program()
    show(browser, sandbox)
    wait_for(lambda: "transaction_id is missing" in browser.text("#request-rows"))

    click(browser, "#request-rows button", "/v1/events")
    wait_for(lambda: "transaction_id is missing" in browser.text("#detail-body"))
    shown = browser.text("#detail-body")
    assert refused.value.request_id is not None
    for part in (
        "400",
        refused.value.request_id,
        "ms",
        '"message": "transaction_id is missing"',
        '"user_id": "customer_123"',
    ):
        assert part in shown
    click(browser, "#detail summary", "Headers of the answer")
    assert "ratelimit-limit: 100000" in browser.text("#detail-body")
    width = "return document.querySelector(arguments[0]).getBoundingClientRect().width"
    assert float(str(browser.run(width, "#detail pre"))) > 1100
    browser.run("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    browser.type("c")
    wait_for(lambda: browser.text("#copied") == "Copied")
    assert json.loads(str(browser.run("return window.copied"))) == {"message": "transaction_id is missing"}

    browser.type(ESCAPE)
    wait_for(lambda: browser.run("return document.getElementById('detail').open") is False)
    click(browser, "#request-rows button", "GET")
    wait_for(lambda: '"earningRules": [' in browser.text("#detail-body"))
    assert "The request has no body." in browser.text("#detail-body")


def test_events_say_why_they_earn_nothing_and_what_they_repeat(
    sandbox: Sandbox, client: PerkamoClient, browser: Browser
) -> None:
    """Expect the missing rule, the missing fact, and a duplicate that leads to the first."""
    client.emit("customer_123", "purchase.completed", {"amount": 100}, transaction_id="order_1")
    client.emit("customer_123", "page.viewed", transaction_id="view_1")
    client.emit("customer_123", "purchase.completed", {"total": 5}, transaction_id="order_2")
    client.emit("customer_123", "purchase.completed", {"amount": 100}, transaction_id="order_1")
    show(browser, sandbox)
    wait_for(lambda: "view_1" in browser.text("#events"))

    shown = browser.text("#events")
    assert "earns nothing: no rule names this event" in shown
    assert "earns nothing: the formula reads amount, which is missing" in shown
    assert shown.count("duplicate") == 1
    click(browser, "#events button", "show the first")
    wait_for(lambda: "+1 Points" in browser.text("#detail-body"))
    assert "order_1" in browser.text("#detail-body")


def test_a_customer_opens_with_traits_history_events_and_requests(
    sandbox: Sandbox, client: PerkamoClient, browser: Browser
) -> None:
    """Expect everything of this one and nothing of another, by their id in the list."""
    client.identify("ada@example.com", {"plan": "premium"})
    client.emit("ada@example.com", "purchase.completed", {"amount": 10_000}, transaction_id="order_1")
    client.emit("ada@example.com", "user.registered", transaction_id="registration")
    client.emit("bob", "user.registered", transaction_id="registration_of_bob")
    client.customer("ada@example.com")
    show(browser, sandbox)
    wait_for(lambda: "ada@example.com" in browser.text("#customer-rows"))

    click(browser, "#customer-rows button", "ada@example.com")
    wait_for(lambda: "History" in browser.text("#detail-body"))

    shown = browser.text("#detail-body")
    for part in (
        '"plan": "premium"',
        "order_1",
        "then 100 Points",
        "then 150 Points",
        "unlocked Welcome member, Free shipping",
        "GET",
        "identified",
    ):
        assert part in shown
    assert "registration_of_bob" not in shown
    assert browser.run("return document.querySelectorAll('#detail .requests li').length") == 4
    assert query_of(browser) == "open=customer%3Aada%40example.com"


def test_filters_are_in_the_address_bar(sandbox: Sandbox, client: PerkamoClient, browser: Browser) -> None:
    """Expect customer, answer, event and text to be filtered, a reload to keep them, and one button to clear them."""
    client.emit("ada", "purchase.completed", {"amount": 100, "note": "blue"}, transaction_id="order_1")
    client.emit("adam", "review.created", transaction_id="review_1")
    client.emit("bob", "review.created", transaction_id="review_2")
    sandbox.faults.next(EVENTS, Status(409))
    with pytest.raises(PerkamoApiError):
        client.emit("bob", "user.registered", transaction_id="registration")
    count = "return document.querySelectorAll(arguments[0]).length"
    show(browser, sandbox)
    wait_for(lambda: browser.run(count, "#events li") == 3)

    browser.tab_to("f-customer")
    browser.type("ADA")
    wait_for(lambda: browser.run(count, "#events li") == 2)
    assert browser.run(count, "#customer-rows li") == 2
    assert browser.run(count, "#request-rows li") == 2
    browser.type(TAB + "review")
    wait_for(lambda: browser.run(count, "#events li") == 1)
    assert query_of(browser) == "customer=ADA&event=review"
    client.emit("adam", "review.created", transaction_id="review_3")
    client.emit("bob", "review.created", transaction_id="review_4")
    wait_for(lambda: browser.run(count, "#events li") == 2)

    show(browser, sandbox, "?status=4xx")
    wait_for(lambda: browser.run(count, "#request-rows li") == 1)
    show(browser, sandbox, "?text=blue")
    wait_for(lambda: browser.run(count, "#events li") == 1)
    assert browser.run("return document.getElementById('f-text').value") == "blue"
    assert browser.run(count, "#request-rows li") == 1
    show(browser, sandbox, "?customer=nobody")
    wait_for(lambda: "No events match the filters" in browser.text("#events-empty"))
    click(browser, "#unfilter")
    wait_for(lambda: browser.run(count, "#events li") == 5)
    assert query_of(browser) == ""


def test_an_event_is_sent_again_and_as_a_new_one(sandbox: Sandbox, client: PerkamoClient, browser: Browser) -> None:
    """Expect a duplicate of the first, a second count of the second, both as calls in the log that faults strike."""
    client.emit("customer_123", "purchase.completed", {"amount": 100}, transaction_id="order_1")
    show(browser, sandbox)
    wait_for(lambda: "order_1" in browser.text("#events"))
    click(browser, "#events button", "purchase.completed")
    wait_for(lambda: "Send again" in browser.text("#detail-buttons"))

    click(browser, "#detail-buttons button", "Send again")
    wait_for(lambda: "Sent as order_1: 200" in browser.text("#copied"))
    assert len(sandbox.events()) == 1
    click(browser, "#detail-buttons button", "Send as a new event")
    wait_for(lambda: "Sent as tx_" in browser.text("#copied"))
    assert [event.context for event in sandbox.events()] == [{"amount": 100}, {"amount": 100}]
    sandbox.faults.next(EVENTS, Lost())
    click(browser, "#detail-buttons button", "Send again")
    wait_for(lambda: "a fault struck it" in browser.text("#copied"))
    assert len(sandbox.requests) == 4


def test_each_fault_is_told_in_words_and_removed_by_itself(sandbox: Sandbox, browser: Browser) -> None:
    """Expect one to go and the other to stay, by keyboard, and the focus not to fall off the page."""
    sandbox.faults.rate(0.25, Lost(), seed=1)
    sandbox.faults.sequence(EVENTS, [Status(503), Status(503), None, Lost()])
    show(browser, sandbox)
    wait_for(lambda: "25 % of all calls are applied and lose the answer" in browser.text("#armed"))
    words = "2 are answered with status 503; nothing is applied, then 1 passes undisturbed, then 1 is applied and loses"
    assert f"Of the next calls of POST /v1/events {words}" in browser.text("#armed")

    click(browser, "#armed li:first-child button")
    wait_for(lambda: "25 %" in browser.text("#armed") and "Of the next" not in browser.text("#armed"))
    wait_for(lambda: browser.focused() == "route")
    browser.tab_to("clear")
    browser.type(ENTER)

    wait_for(lambda: "Nothing is armed" in browser.text("#armed"))
    assert sandbox.faults.armed == ()


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


def test_the_page_pauses_and_says_what_it_holds_back(sandbox: Sandbox, client: PerkamoClient, browser: Browser) -> None:
    """Expect the view to stand still with a count of what came, all of it on Resume, and a reset by keyboard."""
    show(browser, sandbox)
    browser.tab_to("pause")
    browser.type(ENTER)
    wait_for(lambda: browser.text("#state") == "Paused")
    assert "nothing has come since" in browser.text("#held")
    client.emit("customer_123", "user.registered", transaction_id="registration")
    client.customer("customer_123")
    wait_for(lambda: "1 events and 2 requests are held back" in browser.text("#held"))
    assert browser.text("#total-events") == "0"

    browser.type(ENTER)
    wait_for(lambda: browser.text("#total-events") == "1")
    assert browser.run("return document.getElementById('held').hidden") is True
    browser.type(TAB + ENTER)
    browser.accept()

    wait_for(lambda: "No customers yet" in browser.text("#customers"))
    wait_for(lambda: browser.text("#total-events") == "0")
    assert sandbox.events() == ()


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


@pytest.mark.stress
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
