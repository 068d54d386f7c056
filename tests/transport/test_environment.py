"""environment: which proxy it asks for, and for what (F07)."""

from collections.abc import Callable

import httpx
import pytest

from perkamo.transport.environment import environment_proxy, is_exempt

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD")
Env = Callable[..., None]


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Env:
    """Set the environment's proxies; all others are off."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


def proxy_for(url: str) -> str | None:
    """Return host and port of the proxy for a URL."""
    proxy = environment_proxy(httpx.URL(url))
    return None if proxy is None else f"{proxy.host}:{proxy.port}"


def test_without_a_variable_there_is_no_proxy(env: Env) -> None:
    """Catches a proxy where nobody asked for one."""
    assert proxy_for("https://api.test") is None


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", ["http://proxy.test:3128", "proxy.test:3128"])
def test_the_environment_asks_for_a_proxy(variable: str, value: str, env: Env) -> None:
    """As httpx reads it, also without a scheme; catches a variable that is not looked at."""
    env(**{variable: value})

    assert proxy_for("https://api.test") == "proxy.test:3128"


def test_a_proxy_for_another_scheme_is_none(env: Env) -> None:
    """Catches HTTP_PROXY used for https."""
    env(http_proxy="http://proxy.test:3128")

    assert proxy_for("https://api.test") is None
    assert proxy_for("http://api.test") == "proxy.test:3128"


def test_the_proxy_of_the_scheme_comes_first(env: Env) -> None:
    """Small letters before capitals, ALL_PROXY last; catches another order than that of curl and httpx."""
    env(HTTPS_PROXY="http://capitals.test:1", https_proxy="http://small.test:2", ALL_PROXY="http://all.test:3")

    assert proxy_for("https://api.test") == "small.test:2"


def test_a_cgi_script_does_not_take_its_proxy_from_a_request(env: Env) -> None:
    """HTTP_PROXY may be the header ``Proxy`` of whoever asks there; catches keys that are sent to a stranger."""
    env(HTTP_PROXY="http://stranger.test:1", REQUEST_METHOD="GET")

    assert proxy_for("http://api.test") is None


EXEMPT = [
    # what NO_PROXY has, where the service is, whether it is exempt
    ("api.test", "https://api.test", True),
    ("other.test, api.test", "https://api.test", True),
    ("other.test api.test", "https://api.test", True),
    ("API.Test", "https://api.test", True),
    ("test", "https://api.test", True),
    (".test", "https://api.test", True),
    (".api.test", "https://api.test", True),
    ("*", "https://api.test", True),
    ("*.test", "https://api.test", False),  # neither httpx nor curl reads it as a pattern
    ("api.test.", "https://api.test", True),
    ("api.test", "https://api.test.", True),
    ("pi.test", "https://api.test", False),
    ("api", "https://api.test", False),
    ("", "https://api.test", False),
    (" , ,", "https://api.test", False),
    (".", "https://api.test", False),
    ("api.test:8443", "https://api.test:8443", True),
    ("api.test:8443", "https://api.test:9999", False),
    ("api.test:443", "https://api.test", True),
    ("api.test:80", "https://api.test", False),
    (".test:8443", "https://api.test:8443", True),
    (".test:8443", "https://api.test", False),
    ("test:8443", "https://api.test:8443", True),
    ("api.test", "https://api.test:8443", True),
    ("https://api.test", "https://api.test", True),
    ("http://api.test", "https://api.test", False),
    ("all://api.test", "https://api.test", True),
    ("https://api.test/", "https://api.test", True),
    ("203.0.113.9", "https://203.0.113.9", True),
    ("203.0.113.9", "https://203.0.113.8", False),
    ("203.0.113.9:8443", "https://203.0.113.9:8443", True),
    ("203.0.113.9:8443", "https://203.0.113.9", False),
    ("203.0.113.0/24", "https://203.0.113.9", True),
    ("203.0.113.7/24", "https://203.0.113.9", True),
    ("203.0.112.0/24", "https://203.0.113.9", False),
    ("203.0.113.0/33", "https://203.0.113.9", False),
    ("0.0.0.0/0", "https://203.0.113.9", True),
    ("0.0.0.0/0", "https://[fd00::1]", False),
    ("113.9", "https://203.0.113.9", False),
    ("fd00::1", "https://[fd00::1]:8443", True),
    ("FD00:0:0::1", "https://[fd00::1]", True),
    ("[fd00::1]", "https://[fd00::1]:8443", True),
    ("[fd00::1]:8443", "https://[fd00::1]:8443", True),
    ("[fd00::1]:8443", "https://[fd00::1]", False),
    ("fd00::/8", "https://[fd00::1]", True),
    ("[fd00::]/8", "https://[fd00::1]", True),
    ("fe80::/10", "https://[fd00::1]", False),
    ("b\u00fccher.test", "https://b\u00fccher.test", True),
    ("xn--bcher-kva.test", "https://b\u00fccher.test", True),
    ("::::", "https://[fd00::1]", False),
]


@pytest.mark.parametrize(("no_proxy", "url", "exempt"), EXEMPT)
def test_no_proxy_is_heeded(no_proxy: str, url: str, *, exempt: bool) -> None:
    """Names, suffixes, ports, addresses and networks; catches an internal service asked for through the proxy."""
    assert is_exempt(httpx.URL(url), no_proxy) is exempt


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_comes_from_the_environment(name: str, env: Env) -> None:
    """Row F07; catches a variable that is not looked at."""
    env(ALL_PROXY="http://proxy.test:3128", **{name: "other.test:8443,api.test:8443"})

    assert proxy_for("https://api.test:8443") is None
    assert proxy_for("https://api.test") == "proxy.test:3128"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "[::1]"])
def test_this_machine_is_never_asked_for_through_the_environments_proxy(host: str, env: Env) -> None:
    """Row F07, which httpx gets wrong; catches a sandbox that is looked for at the proxy."""
    env(HTTP_PROXY="http://proxy.test:3128", ALL_PROXY="http://proxy.test:3128")

    assert proxy_for(f"http://{host}:4001") is None


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_what_is_wrong_with_a_proxy_names_its_variable(name: str, env: Env) -> None:
    """Not its URL, which may hold a password; catches a message that leaves one to search."""
    env(**{name: "ftp://user:hunter2@proxy.test"})

    proxy = environment_proxy(httpx.URL("https://api.test"))

    assert proxy is not None
    assert proxy.problem is not None
    assert proxy.problem.startswith(f"the proxy in {name} is not the URL of")
    assert "hunter2" not in proxy.problem
