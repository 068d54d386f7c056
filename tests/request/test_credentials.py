"""credentials: where requests may go, and how the key stays hidden."""

import copy
import inspect
import pickle
import threading
from collections.abc import Awaitable, Coroutine
from typing import Any

import anyio
import anyio.to_thread
import pytest

from perkamo import PerkamoConfigurationError
from perkamo.request.credentials import DEFAULT_BASE_URL, Key, SignedHeaders, call_supplier, check_base_url
from tests.canary import frames

pytestmark = pytest.mark.anyio

SECRET = "sk_live_canary_5f2c"

BAD_URLS = [
    "",
    " https://api.perkamo.com",
    "https://api.perkamo.com ",
    "api.perkamo.com",
    "ftp://api.perkamo.com",
    "file:///etc/passwd",
    "https://",
    "https:///v1",
    "https://api.perkamo.com:99999",
    "https://api.perkamo.com:0",
    "https://api.perkamo.com:port",
    "https://api.perkamo.com@evil.test",
    "https://user:secret@api.perkamo.com",
    "https://api.perkamo.com?x=1",
    "https://api.perkamo.com?",
    "https://api.perkamo.com/#f",
    "https://api.perkamo.com/a/../b",
    "https://api.perkamo.com/%2e%2e/b",
    "https://api.perkamo.com//b",
    "https://api.perkamo.com/a b",
    "https://api.perkamo.com\\b",
    "https://\u0430pi.perkamo.com",
    "https://[::1",
    "http://api.perkamo.com",
    "http://localhost.evil.test",
    "http://127.0.0.1.evil.test",
    "http://169.254.169.254",
    "http://0.0.0.0",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_base_url_that_could_lead_the_key_astray_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 3a: each raises before any request; catches what httpx by itself would accept."""
    monkeypatch.delenv("PERKAMO_BASE_URL", raising=False)

    with pytest.raises(PerkamoConfigurationError) as caught:
        check_base_url(url, allow_insecure_http=False)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.perkamo.com", "https://api.perkamo.com"),
        ("https://api.perkamo.com///", "https://api.perkamo.com"),
        ("https://host.test:8443/pfx/", "https://host.test:8443/pfx"),
        ("http://localhost:4001", "http://localhost:4001"),
        ("http://127.0.0.1:4001/", "http://127.0.0.1:4001"),
        ("http://127.8.8.8", "http://127.8.8.8"),
        ("http://[::1]:4001", "http://[::1]:4001"),
    ],
)
def test_a_sound_base_url_is_kept_without_trailing_slashes(url: str, kept: str) -> None:
    """A path prefix and a port stay; catches an over-eager check."""
    assert check_base_url(url, allow_insecure_http=False) == kept


def test_plain_http_needs_leave() -> None:
    """allow_insecure_http opens other hosts; catches an option without effect."""
    assert check_base_url("http://perkamo.internal", allow_insecure_http=True) == "http://perkamo.internal"


def test_the_base_url_comes_from_the_environment_or_is_the_hosted_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """PERKAMO_BASE_URL, else the published host; an empty variable counts as unset."""
    monkeypatch.setenv("PERKAMO_BASE_URL", "https://staging.test")
    from_environment = check_base_url(None, allow_insecure_http=False)
    monkeypatch.setenv("PERKAMO_BASE_URL", "")

    assert from_environment == "https://staging.test"
    assert check_base_url(None, allow_insecure_http=False) == DEFAULT_BASE_URL
    with pytest.raises(PerkamoConfigurationError):
        check_base_url(b"https://api.perkamo.com", allow_insecure_http=False)


def test_a_wrong_url_of_the_environment_is_called_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who set no base_url knows of none; catches an error that sends them looking in their code."""
    monkeypatch.setenv("PERKAMO_BASE_URL", "api.example.com")

    with pytest.raises(PerkamoConfigurationError, match=r"^PERKAMO_BASE_URL must begin with https"):
        check_base_url(None, allow_insecure_http=False)
    with pytest.raises(PerkamoConfigurationError, match=r"^base_url must begin with https"):
        check_base_url("api.example.com", allow_insecure_http=False)


BAD_KEYS: list[object] = [
    "sk live",
    "sk_live\r\nx: y",
    "sk_l\u00edve",
    "sk_\x00",
    "sk\tlive",
    "sk\u2028live",
    b"sk_live",
    1,
    "pk_live_public",
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_text_that_is_no_key_is_refused_without_showing_it(key: object) -> None:
    """Table 3a: refused at construction; catches a key that h11 would print in its error."""
    problem = Key(key).problem

    assert problem is not None
    assert "live" not in problem


def test_a_key_is_trimmed_and_never_shown() -> None:
    """Ends are trimmed as in PHP, reprs show nothing, pickling is refused; catches a key in a log or a cache."""
    key = Key(f"  {SECRET}\n")
    headers = SignedHeaders(SECRET, 1, "POST", "/v1/events", b"")

    assert key.problem is None
    assert SECRET not in repr(key) + str(key) + repr(headers) + str(headers)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(key)


@pytest.mark.parametrize("given", [None, "", "  "])
async def test_a_key_is_asked_for_at_the_first_call(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only builds a client needs no key; the error at the call says what to do; catches a build that fails."""
    monkeypatch.delenv("PERKAMO_SECRET_KEY", raising=False)
    key = Key(given)

    assert key.problem is None
    with pytest.raises(
        PerkamoConfigurationError, match="There is no server key: pass api_key= or set PERKAMO"
    ) as caught:
        await key()
    assert "PERKAMO_SECRET_KEY" in str(caught.value)
    assert "python -m perkamo sandbox" in str(caught.value)
    assert "Nothing was sent" in str(caught.value)
    assert caught.value.outcome == "not_sent"


async def test_a_key_may_be_set_after_the_client_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a settings module is imported before the environment is read; catches a look at import only."""
    monkeypatch.setenv("PERKAMO_SECRET_KEY", " ")
    key = Key(None)
    monkeypatch.setenv("PERKAMO_SECRET_KEY", f" {SECRET}\n")

    assert await key() == SECRET
    monkeypatch.delenv("PERKAMO_SECRET_KEY")
    assert await key() == SECRET


async def test_a_wrong_kind_of_key_in_the_environment_is_refused_whenever_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once where it is there, else at the first call, and never shown; catches a browser key that is sent."""
    monkeypatch.delenv("PERKAMO_SECRET_KEY", raising=False)
    early = Key(None)
    monkeypatch.setenv("PERKAMO_SECRET_KEY", "pk_live_public")

    assert "public browser key" in (Key(None).problem or "")
    with pytest.raises(PerkamoConfigurationError, match="public browser key") as caught:
        await early()
    assert "pk_live_public" not in "".join(frames(caught.value))


async def _async_supplier() -> str:
    return SECRET


class _Supplier:
    async def __call__(self) -> str:
        return SECRET


def _awaitable() -> Awaitable[str]:
    return _async_supplier()


@pytest.mark.parametrize("source", [SECRET, lambda: SECRET, _async_supplier, _awaitable, _Supplier()])
async def test_every_kind_of_supplier_is_asked(source: object) -> None:
    """Text and each kind of function give the key, on both backends; catches a coroutine that nobody awaits."""
    signed = await Key(source).sign(1, "POST", "/v1/events", b"{}")

    assert dict(signed.raw)[b"x-perkamo-api-key"] == SECRET.encode()
    assert len(signed.raw) == 3


async def test_a_get_is_not_signed() -> None:
    """Published: no GET is signed; catches a timestamp on reads."""
    signed = await Key(SECRET).sign(1, "GET", "/v1/program", None)

    assert signed.raw == [(b"x-perkamo-api-key", SECRET.encode())]


@pytest.mark.parametrize("value", [None, "", "a b", 1, b"sk", "sk_live_\u00e9"])
async def test_a_supplier_that_returns_no_key_is_refused_without_showing_it(value: object) -> None:
    """A wrong answer raises before anything is sent; catches a header made of None."""
    with pytest.raises(PerkamoConfigurationError, match="Nothing was sent") as caught:
        await Key(lambda: value).sign(1, "GET", "/v1/program", None)

    assert "sk_live" not in str(caught.value)
    assert caught.value.outcome == "not_sent"


async def test_a_supplier_that_fails_is_named_and_chained() -> None:
    """The supplier's own error is the cause, its text is not repeated; catches a vault's secret in our message."""

    def supplier() -> str:
        raise LookupError("vault says no to sk_live_1")

    with pytest.raises(PerkamoConfigurationError, match="raised LookupError") as caught:
        await Key(supplier).sign(1, "GET", "/v1/program", None)

    assert isinstance(caught.value.__cause__, LookupError)
    assert "sk_live" not in str(caught.value)


async def test_a_coroutine_that_nobody_waits_for_is_closed() -> None:
    """A supplier whose call is cancelled while it runs in its thread; catches "was never awaited" in a log."""
    begun, may_go_on, made = threading.Event(), threading.Event(), threading.Event()
    answers: list[Coroutine[Any, Any, str]] = []

    async def later() -> str:
        return SECRET

    def supply() -> Coroutine[Any, Any, str]:
        begun.set()
        may_go_on.wait(30)
        answers.append(later())
        made.set()
        return answers[0]

    async with anyio.create_task_group() as group:
        group.start_soon(call_supplier, supply)
        await anyio.to_thread.run_sync(begun.wait, 30)
        group.cancel_scope.cancel()
    may_go_on.set()
    await anyio.to_thread.run_sync(made.wait, 30)

    with anyio.fail_after(30):
        while inspect.getcoroutinestate(answers[0]) != inspect.CORO_CLOSED:  # noqa: ASYNC110 - a thread closes it
            await anyio.sleep(0.001)
