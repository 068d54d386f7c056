"""integrations.flask: in process, over a real sandbox."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from perkamo import PerkamoConfigurationError, RetryPolicy
from perkamo.integrations.flask import Perkamo
from perkamo.sandbox import Reset, Sandbox
from perkamo.webhooks import MemoryDeliveryLog, WebhookDelivery
from tests.canary import CANARY_EMAIL
from tests.integrations import flask_shop
from tests.integrations.expected import DELIVERIES, DELIVERY, check_outage, embedded_config
from tests.integrations.flask_shop import handled, perkamo
from tests.webhooks.samples import body


@pytest.fixture
def app(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """The shop over the sandbox, with a database and an outbox of its own."""
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.sqlite3"))
    app = flask_shop.create_app(
        {
            "PERKAMO_SECRET_KEY": sandbox.api_key,
            "PERKAMO_BROWSER_KEY": sandbox.browser_key,
            "PERKAMO_BASE_URL": sandbox.base_url,
            "PERKAMO_RETRY": RetryPolicy(base_delay=0, max_delay=0),
            "PERKAMO_OUTBOX": tmp_path / "outbox",
        }
    )
    handled.clear()
    yield app
    with app.app_context():
        perkamo.client.close()


@pytest.fixture
def http(app: Flask) -> FlaskClient:
    """A browser of the shop."""
    return app.test_client()


def test_a_view_has_the_applications_client(http: FlaskClient, sandbox: Sandbox) -> None:
    """Twice the same order counts once; catches a client that is made for each request."""
    answers = [http.post("/orders/order_1/paid-without-outbox?amount=1").get_json() for _ in range(2)]

    assert answers == [{"accepted": True}] * 2
    assert [event.transaction_id for event in sandbox.events()] == ["order_1"]
    with http.application.app_context():
        former = perkamo.client
    with http.application.app_context():
        assert perkamo.client is former


def test_an_event_waits_in_the_outbox(app: Flask, http: FlaskClient, sandbox: Sandbox) -> None:
    """In the directory of the configuration; catches an event that is sent by the request."""
    assert http.post("/orders/order_1/paid?amount=1").status_code == 200
    assert not sandbox.requests

    with app.app_context():
        perkamo.outbox.drain(perkamo.client)

    assert [event.transaction_id for event in sandbox.events()] == ["order_1"]


def test_two_applications_have_clients_of_their_own(app: Flask, sandbox: Sandbox) -> None:
    """By the application's factory; catches a client of the first application in the second."""
    with Sandbox() as other:
        second = flask_shop.create_app({"PERKAMO_SECRET_KEY": other.api_key, "PERKAMO_BASE_URL": other.base_url})
        with second.app_context(), perkamo.client as client:
            client.program()
        with app.app_context():
            perkamo.client.program()

        assert (len(sandbox.requests), len(other.requests)) == (1, 1)


def test_an_extension_of_one_application_needs_no_context(sandbox: Sandbox) -> None:
    """``Perkamo(app)``, in a script; catches a client that only requests have."""
    app = Flask("script")
    app.config.update(PERKAMO_SECRET_KEY=sandbox.api_key, PERKAMO_BASE_URL=sandbox.base_url)

    with Perkamo(app).client as client:
        assert client.event_catalog()


def test_a_forgotten_init_app_is_told_with_what_to_write() -> None:
    """Within another application, too; catches a KeyError."""
    with pytest.raises(PerkamoConfigurationError, match=r"perkamo\.init_app\(app\)"):
        _ = Perkamo().client
    with Flask("other").app_context(), pytest.raises(PerkamoConfigurationError, match="init_app"):
        _ = Perkamo().client


def test_a_wrong_setting_is_named(sandbox: Sandbox) -> None:
    """As it is written in the configuration; catches a misspelt name that changes nothing."""
    app = Flask("shop")
    app.config["PERKAMO_TIMOUT"] = 5

    with pytest.raises(PerkamoConfigurationError, match="PERKAMO_TIMOUT is not a setting"):
        _ = Perkamo(app).client


def test_a_service_that_is_down_is_503_and_says_nothing(
    http: FlaskClient, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """From the error handler, with Retry-After; catches a page with a traceback."""

    def buy(path: str) -> tuple[int, str, str]:
        answer = http.post(path)
        return answer.status_code, answer.headers["retry-after"], answer.text

    with caplog.at_level(logging.INFO, "perkamo.flask"):
        check_outage(buy, sandbox)

    assert "answered 503" in caplog.text


@pytest.mark.parametrize(("route", "purpose"), [("token", "browser"), ("stream-token", "stream")])
def test_whoever_is_logged_in_gets_a_token(route: str, purpose: str, http: FlaskClient, sandbox: Sandbox) -> None:
    """The published shape, never stored; nobody is 401; catches a token for somebody else."""
    assert http.post(f"/api/perkamo/{route}?user_id=u").status_code == 401
    answer = http.post(f"/api/perkamo/{route}", headers={"x-user": CANARY_EMAIL})

    issued = answer.get_json()
    assert answer.headers["cache-control"] == "no-store"
    assert list(issued) == ["token", "token_type", "expires_at", "expires_in"]
    token = sandbox.check_token(issued["token"], purpose)  # type: ignore[arg-type]  # one of the two purposes
    assert token.user_id == CANARY_EMAIL
    assert http.get(f"/api/perkamo/{route}").status_code == 405


def test_a_page_loads_and_sets_up_the_sdk(http: FlaskClient, sandbox: Sandbox) -> None:
    """With the configuration of the route, and not escaped a second time; catches a page that shows its script."""
    config = http.get("/api/perkamo/browser/config").get_json()
    html = http.get("/page").text

    assert (config["baseUrl"], config["tokenEndpoint"]) == (sandbox.base_url, "/api/perkamo/token")
    assert embedded_config(html) == config


def test_a_delivery_is_handled_once_and_again_after_a_failure(http: FlaskClient, sandbox: Sandbox) -> None:
    """The first fails, the second is handled, the third is a repetition; catches a delivery that is lost."""
    sandbox.faults.next("GET /v1/customer/{user_id}", Reset(before="apply"), times=3)

    answers = [http.post("/hooks/perkamo", data=body(), headers=DELIVERY) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [503, 200, 200]
    assert [answer.get_json().get("new") for answer in answers] == [None, True, False]
    assert handled == ["dlv_1"]


@pytest.mark.parametrize(("path", "headers", "content", "status"), DELIVERIES)
def test_strangers_and_nonsense_are_refused(
    path: str, headers: dict[str, str], content: bytes, status: int, http: FlaskClient
) -> None:
    """By header and by path; catches a door that stands open, and one that never opens."""
    assert http.post(path, data=content, headers=headers).status_code == status


def test_without_flask_the_extra_is_named() -> None:
    """Catches a bare ImportError of a name that nobody installed."""
    program = "import sys; sys.modules['flask'] = None; import perkamo.integrations.flask"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert 'pip install "perkamo[flask]"' in done.stderr


def test_a_function_that_nobody_would_await_is_refused() -> None:
    """At the set-up; catches deliveries that count as handled and never were."""

    async def handle(_delivery: WebhookDelivery) -> None: ...

    with pytest.raises(PerkamoConfigurationError, match="async def"):
        Perkamo().webhook(handle, MemoryDeliveryLog())
