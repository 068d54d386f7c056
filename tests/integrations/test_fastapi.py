"""FastAPI: the application's client, errors and webhooks."""

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
from tests.integrations.fastapi_apps import tokens_of
from tests.integrations.shop import SECRET
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
