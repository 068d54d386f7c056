"""Keys and signatures: what is let in, and what a wrong signature is told."""

import hmac
import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from perkamo.sandbox.messages import Request
from perkamo.sandbox.signatures import AuthorizationError, check_signature
from tests.sandbox.caller import API_KEY, BROWSER_KEY, Answer, Caller, event, make_caller

PATH = "/v1/events"
BODY = json.dumps(event(context={"path": "/pricing", "name": "Příliš", "b": 1, "a": 2}), ensure_ascii=False).encode()
COMPACT = json.dumps(json.loads(BODY), ensure_ascii=False, separators=(",", ":")).encode()


@pytest.fixture
def api() -> Caller:
    """A fresh Space whose clock stands still."""
    return make_caller()


def digest(timestamp: str, method: str = "POST", path: str = PATH, body: bytes = BODY, key: str = API_KEY) -> bytes:
    """Sign by hand, without upper-casing or any other kindness."""
    text = f"v1.{timestamp}.{method}.{path}.{sha256(body).hexdigest()}"
    return hmac.digest(key.encode(), text.encode(), "sha256")


def post(api: Caller, signature: str, *, target: str = PATH, timestamp: str | None = None) -> Answer:
    """Send the body with this signature."""
    headers = (
        *api.headers(),
        ("host", "127.0.0.1:4001"),
        ("content-type", "application/json"),
        ("x-perkamo-timestamp", timestamp or now(api)),
        ("x-perkamo-signature", signature),
    )
    return api.send(Request("POST", target, headers, BODY))


def now(api: Caller, offset: int = 0) -> str:
    """The sandbox's time as a timestamp."""
    return str(int(api.clock.time()) + offset)


def test_the_published_vectors_are_let_in() -> None:
    """Expect the sandbox's own arithmetic to agree with every published and cross-checked signature."""
    vectors = json.loads((Path(__file__).parent.parent / "tables" / "signature_vectors.json").read_text("utf-8"))
    assert len(vectors) > 3

    for vector in vectors:
        headers = (("x-perkamo-timestamp", vector["timestamp"]), ("x-perkamo-signature", vector["signature"]))
        request = Request(vector["method"], vector["path"], headers, vector["body"].encode())
        check_signature(request, vector["path"], vector["api_key"], float(vector["timestamp"]))
        with pytest.raises(AuthorizationError):
            check_signature(request, vector["path"], vector["api_key"] + "x", float(vector["timestamp"]))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "post"}, "the method that was signed is post, not POST"),
        ({"method": "Post"}, "the method that was signed is Post, not POST"),
        ({"method": "PUT"}, "the method that was signed is PUT, not POST"),
        ({"method": ""}, "the method that was signed is empty, not POST"),
        ({"path": "/v1/events/"}, "the path was signed with a slash at its end"),
        ({"path": "v1/events"}, "the path was signed without its first slash"),
        ({"path": "/events"}, "the path was signed without /v1"),
        ({"path": "/v1/events:batch"}, "the path that was signed is /v1/events:batch, the request went to /v1/events"),
        ({"path": "%2Fv1%2Fevents"}, "the path was signed percent-encoded"),
        ({"path": "http://127.0.0.1:4001/v1/events"}, "a whole URL was signed instead of the path"),
        ({"body": b""}, "an empty one was signed"),
        ({"body": BODY + b"\n"}, "a line end was added"),
        ({"body": COMPACT}, "written differently was signed (compact)"),
        ({"body": json.dumps(json.loads(BODY)).encode()}, "written differently was signed (\\u escapes, spaces)"),
        ({"body": json.dumps(json.loads(BODY), sort_keys=True).encode()}, "(\\u escapes, spaces, sorted keys)"),
        ({"body": COMPACT.replace(b"/", b"\\/")}, "with escaped slashes was signed"),
        ({"key": f"{API_KEY}\n"}, "the key was used with a line end"),
        ({"key": f" {API_KEY}"}, "the key was used with a space before it"),
        ({"key": ""}, "the key was empty"),
        ({"key": sha256(API_KEY.encode()).hexdigest()}, "the key was hashed before use"),
        ({"method": "post", "path": "/v1/events/"}, "the method that was signed is post, not POST and the path was"),
        ({"key": "sk_test_another"}, "none of the usual slips"),
    ],
)
def test_a_wrong_signature_is_told_which_part_differs(
    api: Caller, changes: dict[str, str | bytes], reason: str
) -> None:
    """Expect 401, the slip by name, the text that had to be signed, and never the key."""
    arguments = {"timestamp": now(api), "method": "POST", "path": PATH, "body": BODY, "key": API_KEY, **changes}

    answer = post(api, f"v1={digest(**arguments).hex()}")  # type: ignore[arg-type]  # a table of one type each

    assert answer.status == 401
    assert reason in answer.message
    assert f"v1.{now(api)}.POST.{PATH}.{sha256(BODY).hexdigest()}" in answer.message
    assert API_KEY not in answer.message
    assert api.space.ledger.events() == ()


@pytest.mark.parametrize("offset", [-600, -301, -1, 1, 17, 600])
def test_another_timestamp_than_in_the_header_is_found(api: Caller, offset: int) -> None:
    """Expect both timestamps in the message: catches a signature made before and reused after a retry."""
    answer = post(api, f"v1={digest(now(api, offset)).hex()}")

    assert f"the timestamp that was signed is {now(api, offset)}, the one in the header {now(api)}" in answer.message


def test_the_prefix_of_a_gateway_must_not_be_signed(api: Caller) -> None:
    """Expect the slip to be named when the base URL's path went into the signature."""
    answer = post(api, f"v1={digest(now(api), path='/pfx/v1/events').hex()}", target="/pfx/v1/events")

    assert answer.status == 401
    assert "the path was signed with the base URL's prefix" in answer.message


def test_a_query_must_not_be_signed(api: Caller) -> None:
    """Expect the slip to be named."""
    answer = post(api, f"v1={digest(now(api), path='/v1/events?a=1').hex()}", target="/v1/events?a=1")

    assert "the path was signed with the base URL's prefix or the query" in answer.message


def test_the_colon_of_the_batch_route_is_signed_as_it_is(api: Caller) -> None:
    """Expect an encoded colon in the signed path to be found."""
    answer = post(api, f"v1={digest(now(api), path='/v1/events%3Abatch').hex()}", target="/v1/events:batch")

    assert "the path was signed percent-encoded; its colon is literal" in answer.message


def test_a_right_signature_written_wrongly_is_told_so(api: Caller) -> None:
    """Expect a missing prefix, capital digits and base64 to be told apart from wrong signatures."""
    right = digest(now(api))

    messages = {
        "missing prefix": post(api, right.hex()).message,
        "capitals": post(api, f"v1={right.hex().upper()}").message,
        "base64": post(api, f"v1={b64encode(right).decode()}").message,
        "bare base64": post(api, b64encode(right).decode()).message,
        "short": post(api, "v1=abc").message,
        "not ascii": post(api, "v1=é").message,
    }

    assert "the prefix v1= is missing" in messages["missing prefix"]
    assert "lower case" in messages["capitals"]
    assert "base64" in messages["base64"]
    assert "base64" in messages["bare base64"]
    assert "64 hexadecimal digits" in messages["short"]
    assert "64 hexadecimal digits" in messages["not ascii"]


@pytest.mark.parametrize("offset", [-300, -299, 0, 299, 300])
def test_a_timestamp_within_the_window_is_let_in(api: Caller, offset: int) -> None:
    """Expect 300 s either way, the assumed limit, to pass."""
    stamp = now(api, offset)

    assert post(api, f"v1={digest(stamp).hex()}", timestamp=stamp).status == 200


@pytest.mark.parametrize(
    ("offset", "reason"), [(-301, "is 301 s behind"), (301, "is 301 s ahead of"), (-86_400, "is 86400 s behind")]
)
def test_a_timestamp_outside_the_window_is_refused(api: Caller, offset: int, reason: str) -> None:
    """Expect 401 with how far it is off, although the signature is right."""
    stamp = now(api, offset)

    answer = post(api, f"v1={digest(stamp).hex()}", timestamp=stamp)

    assert answer.status == 401
    assert reason in answer.message


def test_a_timestamp_in_milliseconds_is_recognised(api: Caller) -> None:
    """Expect the most common slip of JavaScript habits to be named."""
    stamp = now(api) + "000"

    assert "is it in milliseconds?" in post(api, f"v1={digest(stamp).hex()}", timestamp=stamp).message


@pytest.mark.parametrize(
    "stamp", ["", "1.5", "-1", "+1", "1e9", " 1780308000", "١٢٣", "²", "1_0", "9" * 16, "9" * 5000]
)
def test_a_timestamp_that_is_no_whole_number_is_refused(api: Caller, stamp: str) -> None:
    """Expect 401 for what int() or float() would take, and no crash for what they would not."""
    headers = tuple((name, stamp if name == "x-perkamo-timestamp" else value) for name, value in api.signed(PATH, BODY))

    answer = api.send(Request("POST", PATH, headers, BODY))

    assert (answer.status, answer.message) == (401, "x-perkamo-timestamp must be whole Unix seconds as decimal digits")


@pytest.mark.parametrize("name", ["x-perkamo-timestamp", "x-perkamo-signature", "x-perkamo-api-key"])
def test_a_header_must_be_there_exactly_once(api: Caller, name: str) -> None:
    """Expect 401 with the name of the header, for a missing one and for two."""
    headers = api.signed(PATH, BODY)
    missing = tuple(pair for pair in headers if pair[0] != name)
    twice = (*headers, *(pair for pair in headers if pair[0] == name))

    without = api.send(Request("POST", PATH, missing, BODY))
    doubled = api.send(Request("POST", PATH, twice, BODY))

    assert without.status == doubled.status == 401
    assert f"{name} is missing" in without.message
    assert f"{name} is there more than once" in doubled.message


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("sk_test_wrong", "is not this sandbox's server key"),
        (API_KEY + " ", "is not this sandbox's server key"),
        (API_KEY.upper(), "is not this sandbox's server key"),
        ("", "is not this sandbox's server key"),
        ("klíč", "is not this sandbox's server key"),
        (BROWSER_KEY, "public browser key"),
        ("sk_live_51H", "live key"),
        ("pk_live_51H", "live key"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/customer/a", "/v1/program", "/v1/usage"])
def test_a_wrong_key_is_refused_without_being_shown(api: Caller, path: str, key: str, reason: str) -> None:
    """Expect 401 on reads too; a live key is turned away as such."""
    answer = api.send(Request("GET", path, (("x-perkamo-api-key", key), ("accept", "application/json"))))

    assert answer.status == 401
    assert reason in answer.message
    assert not key.strip() or key not in answer.message


@pytest.mark.parametrize(
    "path", ["/v1/identify", "/v1/events", "/v1/events:batch", "/v1/browser-tokens", "/v1/rewards/redeem"]
)
def test_every_post_must_be_signed(api: Caller, path: str) -> None:
    """Expect 401 before the body is even looked at."""
    for body in (b"{", b""):
        answer = api.send(Request("POST", path, (*api.headers(), ("content-type", "application/json")), body))

        assert answer.status == 401
        assert "missing: every POST is signed" in answer.message
