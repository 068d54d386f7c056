"""FastAPI: browser tokens, and the script that asks for them."""

import json
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from perkamo import (
    AsyncPerkamoClient,
    PerkamoConfigurationError,
    RetryPolicy,
)
from perkamo.integrations.fastapi import (
    PerkamoDep,
    browser_token_router,
    perkamo_lifespan,
)
from perkamo.sandbox import Sandbox
from tests.canary import CANARY_EMAIL
from tests.integrations import shop
from tests.integrations.fastapi_apps import tokens_of
from tests.integrations.shop import logged_in


@pytest.fixture
def client(sandbox: Sandbox) -> Callable[[], AsyncPerkamoClient]:
    """What makes a client of the sandbox."""
    return lambda: AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=RetryPolicy.none())


@pytest.fixture
def http(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The shop, started, over the sandbox."""
    monkeypatch.setenv("PERKAMO_SECRET_KEY", sandbox.api_key)
    monkeypatch.setenv("PERKAMO_BASE_URL", sandbox.base_url)
    with TestClient(shop.app, raise_server_exceptions=False) as started:
        yield started


def test_an_id_that_is_no_text_is_the_applications_error(client: Callable[[], AsyncPerkamoClient]) -> None:
    """A number from the database is refused in one sentence; catches an AttributeError, and a token for "7.0"."""
    app = FastAPI(lifespan=perkamo_lifespan(client))
    number: Callable[[], str] = lambda: 7  # type: ignore[assignment, return-value]  # noqa: E731 - wrong on purpose
    app.include_router(browser_token_router(browser_key="pk_test", get_user_id=number))

    with TestClient(app) as http, pytest.raises(PerkamoConfigurationError, match="must return text or None, not int"):
        http.post("/api/perkamo/token")


@pytest.mark.parametrize(("route", "purpose"), [("token", "browser"), ("stream-token", "stream")])
def test_whoever_is_logged_in_gets_a_token(
    route: str, purpose: str, sandbox: Sandbox, client: Callable[[], AsyncPerkamoClient]
) -> None:
    """The published shape, for the right customer and purpose, never stored; catches one token for both."""
    with TestClient(tokens_of(sandbox, client)) as http:
        answer = http.post(f"/api/perkamo/{route}", headers={"x-user": "customer_5"})

    issued = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert list(issued) == ["token", "token_type", "expires_at", "expires_in"]
    token = sandbox.check_token(issued["token"], purpose)  # type: ignore[arg-type]  # one of the two purposes
    assert token.user_id == "customer_5"


@pytest.mark.parametrize("user", [None, "", "  "])
def test_nobody_gets_no_token(user: str | None, sandbox: Sandbox, client: Callable[[], AsyncPerkamoClient]) -> None:
    """401 with a challenge, and nothing is asked of Perkamo; catches a token for a blank customer."""
    headers = {} if user is None else {"x-user": user}

    with TestClient(tokens_of(sandbox, client)) as http:
        answer = http.post("/api/perkamo/token?user_id=customer_1", headers=headers, json={"user_id": "customer_1"})

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["cache-control"] == "no-store"
    assert not sandbox.requests


def test_an_id_that_can_not_be_sent_leaks_nothing(sandbox: Sandbox, client: Callable[[], AsyncPerkamoClient]) -> None:
    """Too long an id is the field's name only; catches the value in the answer."""
    with TestClient(tokens_of(sandbox, client)) as http:
        answer = http.post("/api/perkamo/token", headers={"x-user": CANARY_EMAIL * 30})

    assert (answer.status_code, answer.json()) == (422, {"detail": "The value for user_id can't be used."})


@pytest.mark.parametrize("prefix", ["/api/perkamo", "/loyalty"])
def test_the_browsers_configuration_names_the_routes(
    prefix: str, sandbox: Sandbox, client: Callable[[], AsyncPerkamoClient]
) -> None:
    """Also below a prefix and in a mounted application; catches paths that are written down."""
    outer = FastAPI(lifespan=perkamo_lifespan(client))
    outer.mount("/shop", tokens_of(sandbox, client, prefix=prefix, base_url="http://localhost:4001"))

    with TestClient(outer) as http:
        found = http.get(f"/shop{prefix}/browser/config").json()
        issued = http.post(found["tokenEndpoint"], headers={"x-user": "u"})

    assert found == {
        "baseUrl": "http://localhost:4001",
        "browserBundleVersion": "0.7.0",
        "browserBundlePath": "https://cdn.jsdelivr.net/npm/@perkamo/browser@0.7.0/dist/perkamo-browser.global.min.js",
        "tokenEndpoint": f"/shop{prefix}/token",
        "streamTokenEndpoint": f"/shop{prefix}/stream-token",
    }
    assert issued.status_code == 200
    assert "sk_" not in str(found)


def test_the_configuration_leaves_out_the_hosted_address() -> None:
    """As the bundle does; catches a null that the browser SDK would take for an address."""
    app = FastAPI(lifespan=perkamo_lifespan(lambda: AsyncPerkamoClient("sk_test_1")))
    app.include_router(browser_token_router(browser_key="pk_test", get_user_id=logged_in))

    with TestClient(app) as http:
        assert "baseUrl" not in http.get("/api/perkamo/browser/config").json()


def test_pages_ask_the_service_that_the_client_asks(sandbox: Sandbox, client: Callable[[], AsyncPerkamoClient]) -> None:
    """A staging client's pages use staging, too; catches the hosted default in the pages of every other service."""
    with TestClient(tokens_of(sandbox, client)) as http:
        assert http.get("/api/perkamo/browser/config").json()["baseUrl"] == sandbox.base_url


def test_a_page_loads_and_sets_up_the_sdk(client: Callable[[], AsyncPerkamoClient]) -> None:
    """Below a mount, with a version and a path of the application's own; catches routes that the page can't reach."""
    inner = FastAPI()
    tokens = browser_token_router(
        browser_key="pk_test", get_user_id=logged_in, bundle_version="0.8.1", bundle_path="/static/perkamo.js"
    )
    inner.include_router(tokens)

    @inner.get("/page")
    async def page(request: Request, perkamo: PerkamoDep) -> dict[str, str]:
        return {"html": tokens.script_tags(request, perkamo, nonce="n0nce")}

    app = FastAPI(lifespan=perkamo_lifespan(client))
    app.mount("/shop", inner)
    with TestClient(app) as http:
        html = http.get("/shop/page").json()["html"]
        config = http.get("/shop/api/perkamo/browser/config").json()

    assert '<script src="/static/perkamo.js" defer nonce="n0nce">' in html
    assert config["browserBundleVersion"] == "0.8.1"
    assert json.loads(html.partition("})(")[2].partition(");\n</script>")[0]) == config


def test_a_token_is_good_for_ten_minutes_unless_told_otherwise(
    sandbox: Sandbox, client: Callable[[], AsyncPerkamoClient]
) -> None:
    """The default of the Symfony bundle; catches a token that ends when the service's own default says so."""
    with TestClient(tokens_of(sandbox, client)) as http:
        issued = http.post("/api/perkamo/token", headers={"x-user": "u"}).json()

    assert 590 <= issued["expires_in"] <= 600


@pytest.mark.parametrize("prefix", ["api", "/api/", ""])
def test_a_prefix_that_cannot_work_is_refused(prefix: str) -> None:
    """Catches routes that nobody can reach."""
    with pytest.raises(ValueError, match="slash"):
        browser_token_router(browser_key="pk_test", get_user_id=logged_in, prefix=prefix)
