"""The mark perkamo_faults in functions, classes, unittest, async plugins and web frameworks."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.testing.runs import PER_REQUEST, run_pytest

PLUGINS = """
import asyncio, unittest
import anyio, pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from perkamo import PerkamoError
from perkamo.integrations.fastapi import PerkamoDep, get_perkamo

app = FastAPI()

@app.post("/orders/{order_id}/paid")
async def paid(order_id: str, perkamo: PerkamoDep) -> None:
    await perkamo.emit("customer_1", "purchase.completed", {"amount": 12900}, transaction_id=order_id)

faults = pytest.mark.perkamo_faults(allow=PerkamoError, limit=5)
runs = []

async def buy(client):
    await client.emit("customer_1", "purchase.completed", {"amount": 12900}, transaction_id="order_1")
"""
SYNC = """
from shop import *

@faults
def test_function(perkamo_client, perkamo_sandbox):
    perkamo_client.emit("customer_1", "purchase.completed", {"amount": 12900}, transaction_id="order_1")
    perkamo_sandbox.assert_emitted("purchase.completed", times=1)

@faults
class TestClass:
    def test_method(self, perkamo_client):
        perkamo_client.emit("customer_1", "purchase.completed", {"amount": 12900}, transaction_id="order_1")

@faults
@pytest.mark.usefixtures("perkamo_sandbox")
class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _client(self, perkamo_client):
        self.client = perkamo_client

    def setUp(self):
        self.set_up = True

    def test_method(self):
        assert self.set_up
        self.client.emit("customer_1", "purchase.completed", {"amount": 12900}, transaction_id="order_1")

@faults
@pytest.mark.usefixtures("perkamo_sandbox")
class TestAsyncCase(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def _client(self, async_perkamo_client):
        self.client = async_perkamo_client

    async def test_method(self):
        await buy(self.client)

@faults
def test_fastapi(perkamo_sandbox, async_perkamo_client, monkeypatch):
    monkeypatch.setitem(app.dependency_overrides, get_perkamo, lambda: async_perkamo_client)
    with TestClient(app) as http:
        http.post("/orders/order_1/paid")
    perkamo_sandbox.assert_emitted("purchase.completed", times=1)

@pytest.fixture(scope="module")
def wide():
    made = []
    yield made
    assert len(made) == 6

@pytest.fixture
def narrow(wide, tmp_path):
    assert not list(tmp_path.iterdir())
    (tmp_path / "used").touch()
    wide.append(tmp_path)

@faults
def test_fixtures(narrow, wide, perkamo_client):
    perkamo_client.emit("customer_1", "purchase.completed", {"amount": 12900}, transaction_id=str(len(wide)))
"""
ASYNC = """
from shop import *

pytestmark = MARKS

@faults
async def test_function(perkamo_sandbox, async_perkamo_client):
    async with anyio.create_task_group() as group:
        group.start_soon(buy, async_perkamo_client)
        group.start_soon(buy, async_perkamo_client)
    perkamo_sandbox.assert_emitted("purchase.completed", times=1)

@FIXTURE
async def shop(async_perkamo_client):
    await buy(async_perkamo_client)
    yield async_perkamo_client
    await async_perkamo_client.customer("customer_1")

@faults
async def test_fixture(shop, perkamo_sandbox):
    await buy(shop)
    perkamo_sandbox.assert_emitted("purchase.completed", times=1)
"""


@pytest.mark.stress
@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.stress), "2"])
def test_it_works_with_functions_classes_unittest_and_fastapi(workers: str, tmp_path: Path) -> None:
    """Each run as new under each of them, and under xdist; catches a test case whose method is not disturbed."""
    run = run_pytest(tmp_path, {"shop.py": PLUGINS, "test_sync.py": SYNC}, f"-n{workers}")

    assert (run.code, run.counts) == (0, {"passed": 6}), run.text
    assert run.text.count(f": 5 faults of {PER_REQUEST}, 0 differences") == 6, run.text


@pytest.mark.stress
@pytest.mark.parametrize(
    ("mark", "fixture", "ini", "passed"),
    [
        pytest.param(
            "[pytest.mark.asyncio]", "pytest_asyncio.fixture", "asyncio_mode = strict", 2, marks=pytest.mark.stress
        ),
        ("[]", "pytest.fixture", "asyncio_mode = auto", 2),
        ("[pytest.mark.anyio]", "pytest.fixture", "", 4),
        pytest.param(
            "[pytest.mark.trio]",
            "pytest.fixture",
            "",
            2,
            marks=pytest.mark.skipif(find_spec("pytest_trio") is None, reason="pytest-trio is not installed"),
        ),
    ],
    ids=["asyncio strict", "asyncio auto", "anyio", "trio"],
)
def test_it_works_under_every_plugin_for_async_tests(
    mark: str, fixture: str, ini: str, passed: int, tmp_path: Path
) -> None:
    """The second run after an allowed error is in the test's own loop; catches a loop that is gone by then."""
    tests = ASYNC.replace("MARKS", mark).replace("FIXTURE", fixture)
    if "asyncio" in fixture:
        tests = f"import pytest_asyncio\n{tests}"

    run = run_pytest(tmp_path, {"shop.py": PLUGINS, "test_async.py": tests}, ini=ini)

    assert (run.code, run.counts) == (0, {"passed": passed}), run.text
    assert run.text.count(": 5 faults of ") == passed


DJANGO = """
import django, pytest
from django.conf import settings
from django.http import HttpResponse
from django.test import Client, SimpleTestCase
from django.urls import path
from perkamo import PerkamoError

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver"], SECRET_KEY="of the tests")
django.setup()
clients = {}

def paid(request, order_id):
    clients["sync"].emit("customer_1", "purchase.completed", {"amount": 12900}, transaction_id=order_id)
    return HttpResponse()

async def paid_async(request, order_id):
    await clients["async"].emit("customer_1", "purchase.completed", {"amount": 12900}, transaction_id=order_id)
    return HttpResponse()

urlpatterns = [path("paid/<order_id>", paid), path("paid-async/<order_id>", paid_async)]
faults = pytest.mark.perkamo_faults(allow=PerkamoError, limit=5)

@pytest.fixture(autouse=True)
def _clients(perkamo_client, async_perkamo_client):
    clients.update({"sync": perkamo_client, "async": async_perkamo_client})

@faults
@pytest.mark.parametrize("path", ["paid", "paid-async"])
def test_view(path, perkamo_sandbox):
    assert Client().post(f"/{path}/order_1").status_code == 200
    perkamo_sandbox.assert_emitted("purchase.completed", times=1)

@faults
@pytest.mark.usefixtures("perkamo_sandbox")
class TestViews(SimpleTestCase):
    def test_view(self):
        assert self.client.post("/paid/order_1").status_code == 200

    async def test_async_view(self):
        assert (await self.async_client.post("/paid-async/order_1")).status_code == 200
"""


@pytest.mark.stress
@pytest.mark.skipif(find_spec("django") is None, reason="Django is not installed")
def test_it_works_with_djangos_clients_and_test_cases(tmp_path: Path) -> None:
    """Sync and async views, by functions and by SimpleTestCase; catches a method that a test case takes elsewhere."""
    run = run_pytest(tmp_path, {"test_django.py": DJANGO})

    assert (run.code, run.counts) == (0, {"passed": 4}), run.text
    assert run.text.count(f": 5 faults of {PER_REQUEST}, 0 differences") == 4, run.text
