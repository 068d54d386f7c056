"""What the tests of the page in a browser share."""

from perkamo.sandbox import Sandbox
from tests.sandbox.browser import Browser, wait_for

ESCAPE = "\ue00c"
EVENTS = "POST /v1/events"


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
