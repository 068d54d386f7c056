"""The sandbox's page in a browser: what it shows of events, answers and customers, and how it is used."""

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from perkamo import PerkamoApiError, PerkamoClient, PerkamoServerError, RetryPolicy
from perkamo.sandbox import Lost, Sandbox, Status
from tests.sandbox.browser import DOWN, ENTER, HOME, TAB, UP, Browser, missing, wait_for
from tests.sandbox.browsing import ESCAPE, EVENTS, click, show

HOLD_ANSWERS = """
const send = window.fetch, released = new Promise((release) => { window.release = release; });
window.fetch = async (...words) => { const answer = await send(...words); await released; return answer; };
"""

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a browser is here")


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[PerkamoClient]:
    """A client that tries once."""
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=RetryPolicy(attempts=1)) as client:
        yield client


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
    browser.run(HOLD_ANSWERS)
    browser.type(ENTER)
    wait_for(lambda: "The next call of POST /v1/events is answered with status 502" in browser.text("#armed"))
    assert sandbox.faults.unfired == ("POST /v1/events: Status(502)",)

    with pytest.raises(PerkamoServerError) as failure:
        client.emit("customer_123", "review.created", transaction_id="review_1")
    assert failure.value.status == 502
    wait_for(lambda: "Status(502)" in browser.text("#request-rows"))
    wait_for(lambda: "Nothing is armed" in browser.text("#armed"))
    browser.run("window.release()")
    wait_for(lambda: "Armed:" in browser.text("#told"))
    assert "Nothing is armed" in browser.text("#armed")  # a late answer to the arming shows no older state
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
    wait_for(lambda: query_of(browser) == "customer=ADA&event=review")
    assert browser.run(count, "#events li") == 1
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
