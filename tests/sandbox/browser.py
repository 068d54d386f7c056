"""A real headless Chromium, driven by the WebDriver protocol over the standard library's HTTP client."""

import base64
import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # root cannot have Chromium's own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--proxy-server=direct://",
)
TAB: Final = "\ue004"
ENTER: Final = "\ue007"
HOME: Final = "\ue011"
UP: Final = "\ue013"
DOWN: Final = "\ue015"
BACKSPACE: Final = "\ue003"


def missing() -> str:
    """Why no browser can be driven here; empty when one can."""
    names = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(names)} not installed: apt-get install chromium chromium-driver" if names else ""


class Browser:
    """One window of a running Chromium."""

    def __init__(self, port: int, capabilities: dict[str, object]) -> None:
        self._port = port
        self._session = ""
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        assert isinstance(made, dict)
        self._session = f"/session/{made['sessionId']}"

    def open(self, url: str) -> None:
        """Load a page."""
        self._call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> object:
        """Run JavaScript in the page, as the browser's owner and not as the page: its policy does not apply."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """The text that one element shows."""
        shown = self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        assert isinstance(shown, str)
        return shown

    def type(self, keys: str) -> None:
        """Press keys one after another, wherever the focus is."""
        steps: list[dict[str, str]] = []
        for key in keys:
            steps += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]})

    def focused(self) -> str:
        """The id of the element that has the focus."""
        found = self.run("return document.activeElement.id")
        assert isinstance(found, str)
        return found

    def tab_to(self, wanted: str) -> None:
        """Press Tab until the element with this id has the focus."""
        for _ in range(60):
            if self.focused() == wanted:
                return
            self.type(TAB)
        raise AssertionError(f"Tab never reaches {wanted}")

    def accept(self) -> None:
        """Confirm the open dialog."""
        self._call("POST", "/alert/accept", {})

    def color_scheme(self, scheme: str) -> None:
        """Prefer light or dark from now on."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._call("POST", "/goog/cdp/execute", command)

    def size(self, width: int, height: int) -> None:
        """Set the size of the page's window, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})

    def screenshot(self, file: Path) -> None:
        """Save what the window shows as a PNG."""
        picture = self._call("GET", "/screenshot")
        assert isinstance(picture, str)
        file.write_bytes(base64.b64decode(picture))

    def complaints(self) -> list[str]:
        """What the page's console warned of since the last look."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        assert isinstance(entries, list)
        return [str(entry["message"]) for entry in entries]

    def close(self) -> None:
        """Close the window."""
        self._call("DELETE", "")

    def _call(self, method: str, path: str, body: object = None) -> object:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            raw = None if body is None else json.dumps(body)
            connection.request(method, self._session + path, raw, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert isinstance(answer, dict)
        value = answer.get("value")
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"WebDriver: {value['error']}: {value.get('message')}")
        return value


@contextmanager
def driver_on_a_port() -> Iterator[int]:
    """Start ChromeDriver, and give the port that it found.

    It binds one of IPv6 and then the same of IPv4, which somebody else may have: it ends then, and is started again.
    """
    for _ in range(5):
        with subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
            try:
                assert driver.stdout is not None
                lines = (re.search(r"successfully on port (\d+)", line) for line in driver.stdout)
                started = next((found for found in lines if found), None)
                if started is not None:
                    yield int(started[1])
                    return
            finally:
                driver.terminate()
    raise AssertionError("ChromeDriver finds no port")


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start ChromeDriver and a window, and end both."""
    with driver_on_a_port() as port:
        options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        browser = Browser(port, wanted)
        try:
            yield browser
        finally:
            browser.close()


def wait_for(what: Callable[[], bool], *, seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)
