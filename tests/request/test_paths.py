"""paths: what is signed is what is sent, and it leads nowhere else."""

import string

import httpx
import pytest

from perkamo import AsyncPerkamoClient
from perkamo.request.endpoints import other
from perkamo.request.outgoing import Addresses
from perkamo.request.paths import path_problem
from perkamo.signing import sign
from tests.faults.rawserver import RawServer, answer, answering
from tests.tables.refused import BAD_PATHS

pytestmark = pytest.mark.anyio

KEY = "sk_test_paths"
ALLOWED = string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@"
GOOD = [
    f"/v1/x{ALLOWED}",
    "/v1/events:batch",
    "/v1/a%20b/%C3%A1%2Fb/c%40d.e",
    "/v1/a;b=c/...",
    "/v1/%7Buser_id%7D",
    "/v1/a%252Fb",
    "/v1/..a/b..",
]


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("external", [False, True], ids=["ours", "a caller's client"])
async def test_a_path_is_sent_as_it_was_signed(path: str, external: bool) -> None:
    """Byte for byte, by our own transport and by httpx's; catches a character that httpx encodes after signing."""
    http = httpx.AsyncClient(trust_env=False) if external else None
    with RawServer(answering(answer(b"{}"))) as server:
        async with AsyncPerkamoClient(KEY, base_url=f"{server.base_url}/pfx", http_client=http) as client:
            await client.request("POST", path, {"a": 1})
        if http is not None:
            await http.aclose()

    request = server.requests[0]
    assert request.line == f"POST /pfx{path} HTTP/1.1"
    signed = sign(KEY, request.headers["x-perkamo-timestamp"], "POST", path, request.body)
    assert request.headers["x-perkamo-signature"] == signed


@pytest.mark.parametrize("path", GOOD)
def test_httpx_leaves_the_allowed_characters_alone(path: str) -> None:
    """Whatever version is installed; catches an allowed character that it would encode."""
    assert httpx.URL("http://host").copy_with(raw_path=path.encode()).raw_path == path.encode()


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    """The table has only what this very check refuses; catches a row that another check refuses first."""
    assert path_problem(path) is not None


@pytest.mark.parametrize(
    ("method", "path", "label"),
    [
        ("patch", "/v1/customer", "PATCH /v1/customer"),
        ("PATCH", "/v1/customer/alice", "PATCH /v1/customer/…"),
        ("PUT", "/v1/customer/alice/address", "PUT /v1/customer/…"),
        ("DELETE", "/v1/customer/alice", "DELETE /v1/customer/…"),
        ("GET", "/v1/usage?user=alice", "GET /v1/usage"),
        ("GET", "/v1/usage/alice?user=bob", "GET /v1/usage/…"),
        ("POST", "/v1/rewards/redeem", "POST /v1/rewards/…"),
    ],
)
def test_the_label_of_a_request_names_method_and_endpoint_only(method: str, path: str, label: str) -> None:
    """PATCH is a method like the others, and no id is in what is logged; catches a label with the whole path."""
    call = other(method, path, None)

    assert (call.label, call.path) == (label, path)
    assert call.is_write is (method != "GET")


@pytest.mark.stress
def test_any_number_of_paths_takes_no_memory() -> None:
    """60,000 different writes leave nothing behind; catches a cache of URLs that only grows (75 MB)."""
    addresses = Addresses("https://api.test/pfx")
    for number in range(60_000):
        url, path = addresses.of(other("POST", f"/v1/thing{number % 5_000}/{number}", None))
        assert path == f"/pfx/v1/thing{number % 5_000}/{number}".encode()
    assert url.raw_path == b"/pfx/v1/thing4999/%E2%80%A6"

    assert len(addresses._urls) <= 64
