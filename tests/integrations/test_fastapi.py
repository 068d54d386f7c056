"""integrations.fastapi: in process, over a real sandbox."""

import json
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager

import anyio
import pytest
from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.testclient import TestClient

from perkamo import (
    AsyncPerkamoClient,
    Customer,
    PerkamoApiError,
    PerkamoAuthenticationError,
    PerkamoClosedError,
    PerkamoConfigurationError,
    PerkamoConflictError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoNotFoundError,
    PerkamoRateLimitError,
    PerkamoServerError,
    PerkamoValidationError,
    ProgramEvent,
    RetryPolicy,
)
from perkamo.integrations.fastapi import (
    PerkamoDep,
    browser_token_router,
    get_perkamo,
    perkamo_error_handler,
    perkamo_lifespan,
    receive_webhook,
    secret_webhook,
)
from perkamo.sandbox import Sandbox, Status
from perkamo.webhooks import MAX_WEBHOOK_BYTES, PerkamoDeliveryBusyError, PerkamoDeliveryLogError, PerkamoWebhookError
from tests.canary import CANARY_EMAIL
from tests.integrations import shop
from tests.integrations.shop import SECRET, logged_in
from tests.webhooks.samples import HEADERS, body


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


def is_closed(client: AsyncPerkamoClient) -> bool:
    """Tell whether a client refuses to work."""
    try:
        anyio.run(client.program)
    except PerkamoClosedError:
        return True
    return False


def tokens_of(sandbox: Sandbox, client: Callable[[], AsyncPerkamoClient], **options: str) -> FastAPI:
    """An application with the token routes."""
    app = FastAPI(lifespan=perkamo_lifespan(client))
    app.include_router(
        browser_token_router(browser_key=sandbox.browser_key, get_user_id=logged_in, **options)  # type: ignore[arg-type]  # text options only
    )
    return app


def test_an_id_that_is_no_text_is_the_applications_error(client: Callable[[], AsyncPerkamoClient]) -> None:
    """A number from the database is refused in one sentence; catches an AttributeError, and a token for "7.0"."""
    app = FastAPI(lifespan=perkamo_lifespan(client))
    number: Callable[[], str] = lambda: 7  # type: ignore[assignment, return-value]  # noqa: E731 - wrong on purpose
    app.include_router(browser_token_router(browser_key="pk_test", get_user_id=number))

    with TestClient(app) as http, pytest.raises(PerkamoConfigurationError, match="must return text or None, not int"):
        http.post("/api/perkamo/token")


def test_an_application_starts_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health checks and documentation need none; the call says what to do; catches a deployment that can't be tried."""
    monkeypatch.delenv("PERKAMO_SECRET_KEY", raising=False)
    app = FastAPI(lifespan=perkamo_lifespan(AsyncPerkamoClient))

    @app.get("/")
    async def index(perkamo: PerkamoDep) -> str:
        await perkamo.program()
        return "unreachable"

    with TestClient(app) as http:
        assert http.get("/openapi.json").status_code == 200
        with pytest.raises(PerkamoConfigurationError, match="There is no server key"):
            http.get("/")


def test_a_handler_gets_the_applications_client(http: TestClient, sandbox: Sandbox) -> None:
    """Lifespan and dependency together; catches a client that is made for each request."""
    answers = [http.post("/orders/order_1/paid?amount=12900") for _ in range(2)]

    assert [answer.json()["accepted"] for answer in answers] == [True, True]
    assert [event.transaction_id for event in sandbox.events("customer_123")] == ["order_1"]


def test_the_lifespan_keeps_the_applications_own_and_closes_last(client: Callable[[], AsyncPerkamoClient]) -> None:
    """The inner lifespan has its state and an open client to its end; catches a client that closes first."""
    seen: list[object] = []

    @asynccontextmanager
    async def own(_app: FastAPI) -> AsyncGenerator[Mapping[str, object]]:
        seen.append("begin")
        yield {"answer": 42}
        seen.append((await kept[0].program()).meta.status)

    app = FastAPI(lifespan=perkamo_lifespan(client, lifespan=own))
    kept: list[AsyncPerkamoClient] = []

    @app.get("/")
    async def index(request: Request, perkamo: PerkamoDep) -> int:
        kept.append(perkamo)
        return int(request.state.answer)

    with TestClient(app) as http:
        assert http.get("/").json() == 42

    assert seen == ["begin", 200]
    assert is_closed(kept[0])


def test_a_start_that_fails_closes_the_client(client: Callable[[], AsyncPerkamoClient]) -> None:
    """The application's own lifespan may raise; catches a client that is left open."""
    made: list[AsyncPerkamoClient] = []

    @asynccontextmanager
    async def own(_app: FastAPI) -> AsyncGenerator[None]:
        raise RuntimeError
        yield

    def make() -> AsyncPerkamoClient:
        made.append(client())
        return made[0]

    with pytest.raises(RuntimeError), TestClient(FastAPI(lifespan=perkamo_lifespan(make, lifespan=own))):
        pass

    assert is_closed(made[0])


def test_mounted_applications_and_websockets_have_the_client_too(client: Callable[[], AsyncPerkamoClient]) -> None:
    """State reaches what is mounted; catches a look-up in the outer application only, and one for HTTP only."""
    inner = FastAPI()

    @inner.get("/rules")
    async def rules(perkamo: PerkamoDep) -> int:
        return len(await perkamo.event_catalog())

    @inner.websocket("/live")
    async def live(websocket: WebSocket, perkamo: PerkamoDep) -> None:
        await websocket.accept()
        await websocket.send_json(len(await perkamo.event_catalog()))
        await websocket.close()

    app = FastAPI(lifespan=perkamo_lifespan(client))
    app.mount("/inner", inner)

    with TestClient(app) as http:
        count = http.get("/inner/rules").json()
        with http.websocket_connect("/inner/live") as socket:
            assert socket.receive_json() == count

    assert count > 0


def test_a_test_puts_its_own_client_in_place(client: Callable[[], AsyncPerkamoClient], sandbox: Sandbox) -> None:
    """dependency_overrides, without a lifespan; catches a dependency that can't be named."""
    perkamo = client()
    shop.app.dependency_overrides[get_perkamo] = lambda: perkamo

    try:
        http = TestClient(shop.app)
        answer = http.post("/orders/order_7/paid?amount=1")
        anyio.run(perkamo.aclose)
    finally:
        shop.app.dependency_overrides.clear()

    assert answer.json()["accepted"]
    assert len(sandbox.events()) == 1


def test_a_forgotten_lifespan_is_told_with_what_to_write() -> None:
    """The message has the line; catches an AttributeError on the state."""
    app = FastAPI()

    @app.get("/")
    async def index(perkamo: PerkamoDep) -> None:
        await perkamo.program()

    with pytest.raises(PerkamoConfigurationError, match=r"FastAPI\(lifespan=perkamo_lifespan\(\)\)"):
        TestClient(app).get("/")


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


def test_a_service_that_is_down_is_503_and_says_nothing(
    sandbox: Sandbox, client: Callable[[], AsyncPerkamoClient], caplog: pytest.LogCaptureFixture
) -> None:
    """With Retry-After, never stored, without Perkamo's own words; catches a 500 and a leak."""
    sandbox.faults.next(
        "POST /v1/browser-tokens", Status(503, headers={"retry-after": "7"}, body='{"message": "secret"}')
    )

    with TestClient(tokens_of(sandbox, client)) as http, caplog.at_level(logging.INFO, "perkamo.fastapi"):
        answer = http.post("/api/perkamo/token", headers={"x-user": CANARY_EMAIL})

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.headers["cache-control"] == "no-store"
    assert "secret" not in answer.text
    assert CANARY_EMAIL not in answer.text + caplog.text
    assert "answered 503" in caplog.text


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


def test_the_documentation_shows_routes_and_answers() -> None:
    """OpenAPI has each route once, with its body and its errors; catches untyped answers and secrets."""
    document = shop.app.openapi()

    token = document["paths"]["/api/perkamo/token"]["post"]
    assert {"200", "401", "503"} <= set(token["responses"])
    assert token["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/IssuedToken")
    ids = [way["operationId"] for path in document["paths"].values() for way in path.values()]
    assert len(ids) == len(set(ids))
    assert SECRET not in str(document)


ERRORS: list[tuple[PerkamoError, int, str | None]] = [
    (PerkamoValidationError("bob", field="context", path="context.bob"), 422, None),
    (PerkamoNotFoundError("bob", status=404), 404, None),
    (PerkamoConflictError("bob", status=409), 409, None),
    (PerkamoConfigurationError("bob"), 500, None),
    (PerkamoAuthenticationError("bob", status=401), 502, None),
    (PerkamoApiError("bob", status=400), 502, None),
    (PerkamoRateLimitError("bob", status=429, retry_after_seconds=0.2, retryable=True), 503, "1"),
    (PerkamoServerError("bob", status=503, retry_after_seconds=1e9, retryable=True), 503, "3600"),
    (PerkamoConnectionError("bob", retryable=True), 503, "5"),
    (PerkamoDeliveryBusyError(), 503, "5"),
    (PerkamoWebhookError("is bob"), 400, None),
    (PerkamoDeliveryLogError("bob"), 503, "5"),
    (PerkamoDeliveryLogError("bob", handled=True), 200, None),
]


@pytest.mark.parametrize(
    ("error", "status", "wait"), ERRORS, ids=[f"{type(error).__name__} {status}" for error, status, _ in ERRORS]
)
def test_each_error_has_its_answer(error: PerkamoError, status: int, wait: str | None) -> None:
    """A status that tells the caller what to do, and no word of the error's; catches a leak and a lost Retry-After."""
    app = FastAPI()
    app.add_exception_handler(PerkamoError, perkamo_error_handler)

    @app.get("/")
    async def fail() -> None:
        raise error

    answer = TestClient(app).get("/")

    assert (answer.status_code, answer.headers.get("retry-after")) == (status, wait)
    assert list(answer.json()) == ["detail"]
    assert "bob" not in answer.text


def test_a_handler_may_return_what_the_client_returned(
    sandbox: Sandbox, client: Callable[[], AsyncPerkamoClient]
) -> None:
    """Typed, in a list or without a type, and described in OpenAPI; catches the 500 that such a handler answered."""
    app = FastAPI(lifespan=perkamo_lifespan(client))

    @app.get("/untyped")
    async def untyped(perkamo: PerkamoDep):  # type: ignore[no-untyped-def] # noqa: ANN202 - what is tested
        return await perkamo.customer("customer_123")

    @app.get("/typed")
    async def typed(perkamo: PerkamoDep) -> Customer:
        return await perkamo.customer("customer_123")

    @app.get("/rules")
    async def rules(perkamo: PerkamoDep) -> tuple[ProgramEvent, ...]:
        return await perkamo.event_catalog()

    with TestClient(app) as http:
        answers = {path: http.get(path).json() for path in ("/untyped", "/typed", "/rules")}
        described = http.get("/openapi.json").json()["paths"]["/typed"]["get"]["responses"]["200"]

    assert answers["/untyped"] == answers["/typed"] == Customer("customer_123").to_dict()
    assert answers["/rules"][0] == {
        "event": "user.registered",
        "label": "Created an account",
        "reward": {"wallet": "points", "amount": 50},
    }
    assert "wallets" in described["content"]["application/json"]["schema"]["properties"]


def test_a_foreign_error_is_not_swallowed() -> None:
    """The handler may be given for all exceptions; catches a bug that is answered as Perkamo's."""
    app = FastAPI()
    app.add_exception_handler(ZeroDivisionError, perkamo_error_handler)

    @app.get("/")
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        TestClient(app).get("/")


def test_a_webhook_is_handled_once(http: TestClient) -> None:
    """Through parse, dependency and deduplicate; catches a delivery that is handled at each repetition."""
    shop.handled.clear()

    answers = [http.post("/hooks/perkamo", headers=HEADERS, content=body()).json() for _ in range(2)]

    assert answers == [{"new": True}, {"new": False}]
    assert shop.handled == ["dlv_1"]


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        (HEADERS, b"{", 400),
        ({}, body(), 400),
        (HEADERS, b" " * (MAX_WEBHOOK_BYTES + 1), 413),
        (HEADERS, body() + b" " * (MAX_WEBHOOK_BYTES - len(body())), 200),
    ],
    ids=["not JSON", "no delivery id", "too large", "as large as may be"],
)
def test_what_is_no_webhook_is_refused(headers: dict[str, str], content: bytes, status: int, http: TestClient) -> None:
    """400 and 413 without a word of what came; catches a 500, and a bound that is none."""
    answer = http.post("/hooks/perkamo", headers=headers, content=content)

    assert answer.status_code == status
    assert "bob" not in answer.text


@pytest.mark.anyio
async def test_a_body_without_end_is_not_read_to_its_end() -> None:
    """The bound holds while it comes in; catches a body that is read whole first."""
    sent = 0

    async def receive() -> dict[str, object]:
        nonlocal sent
        sent += 65_536
        return {"type": "http.request", "body": b" " * 65_536, "more_body": sent < 100 * MAX_WEBHOOK_BYTES}

    request = Request({"type": "http", "headers": []}, receive)

    with pytest.raises(HTTPException) as caught:
        await receive_webhook(request)

    assert caught.value.status_code == 413
    assert sent == MAX_WEBHOOK_BYTES + 65_536


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("/hooks/header", SECRET, 200),
        ("/hooks/header", "sésame", 404),
        ("/hooks/header", None, 404),
        (f"/hooks/path/{SECRET}", None, 200),
        ("/hooks/path/other", None, 404),
    ],
)
def test_a_secret_opens_the_way(path: str, given: str | None, status: int, http: TestClient) -> None:
    """By header and by path; catches a door that stands open, or never opens."""
    headers = dict(HEADERS) if given is None else {**HEADERS, "x-secret": given.encode()}

    assert http.post(path, headers=headers, content=body()).status_code == status  # type: ignore[arg-type]  # bytes do


def test_a_secret_needs_one_place() -> None:
    """Neither and both are refused, and so is an empty one; catches a dependency that lets everybody in."""
    for wrong in ({}, {"header": "x", "path_parameter": "y"}):
        with pytest.raises(PerkamoConfigurationError):
            secret_webhook(SECRET, **wrong)
    with pytest.raises(PerkamoConfigurationError, match="empty"):
        secret_webhook("", header="x")


def test_no_stranger_is_told_of_where_a_secret_is_set(caplog: pytest.LogCaptureFixture) -> None:
    """Only a request that came may be refused; catches a warning at each start of the application."""
    with caplog.at_level(logging.DEBUG):
        secret_webhook(SECRET, header="x-secret")

    assert not caplog.records


def test_without_fastapi_the_extra_is_named() -> None:
    """Catches a bare ImportError of a name that nobody installed."""
    program = "import sys; sys.modules['fastapi'] = None; import perkamo.integrations.fastapi"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert 'pip install "perkamo[fastapi]"' in done.stderr
