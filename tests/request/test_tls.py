"""client: TLS that is refused, and TLS that can't be set up on this machine; neither is tried again."""

import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
import pytest
import trustme

from perkamo import (
    AsyncPerkamoClient,
    PerkamoConfigurationError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoStreamError,
    RetryPolicy,
)
from perkamo.request.failures import result_of
from tests.faults.rawserver import Connection, RawServer, Script, answer, answering

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(base_delay=0, max_delay=0)
CA: Final = trustme.CA()


def secured(script: Script, name: str = "localhost", set_up: Callable[[ssl.SSLContext], None] | None = None) -> Script:
    """Make a script that speaks TLS, with a certificate of an authority that nobody trusts by itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(name).configure_cert(context)
    if set_up is not None:
        set_up(context)

    def wrapped(connection: Connection) -> None:
        with context.wrap_socket(connection.socket, server_side=True) as secure:
            connection.socket = secure
            script(connection)

    return wrapped


def trusting() -> ssl.SSLContext:
    """Make a context that trusts the test's authority."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


def old_only(context: ssl.SSLContext) -> None:
    """Speak no version that the client speaks."""
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")


def plain(connection: Connection) -> None:
    """Answer in plain HTTP, as a web server does on the wrong port."""
    connection.read_some(65_536)
    connection.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


def strict() -> ssl.SSLContext:
    """Make a context that speaks TLS 1.3 only."""
    context = trusting()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


REFUSED: list[tuple[str, Script, Callable[[], ssl.SSLContext], str]] = [
    ("unknown authority", secured(answering(answer())), ssl.create_default_context, "certificate verify failed: "),
    (
        "another name",
        secured(answering(answer()), "other.test"),
        trusting,
        "certificate verify failed: Hostname mismatch",
    ),
    ("no common version", secured(answering(answer()), set_up=old_only), strict, "protocol version"),
    ("no TLS", plain, trusting, "wrong version number"),
]


@pytest.mark.parametrize("way", ["ours", "a caller's client"])
@pytest.mark.parametrize(("name", "script", "context", "text"), REFUSED, ids=[row[0] for row in REFUSED])
async def test_tls_that_is_refused_is_final(
    name: str, script: Script, context: Callable[[], ssl.SSLContext], text: str, way: str
) -> None:
    """One attempt, not retryable, nothing sent, the reason in words; catches three tries, and no error."""
    with RawServer(script) as server:
        url = server.base_url.replace("http://127.0.0.1", "https://localhost")
        trust = context()
        http = None if way == "ours" else httpx.AsyncClient(verify=trust, trust_env=False)
        client = AsyncPerkamoClient(
            "sk_x", base_url=url, retry=QUICK, http_client=http, ssl_context=None if http else trust
        )
        async with client:
            with pytest.raises(PerkamoConnectionError, match="the TLS connection was refused") as caught:
                await client.emit("u", "e")
        if http is not None:
            await http.aclose()
        assert server.accepted == 1

    error = caught.value
    assert text in str(error)
    assert "_ssl.c" not in str(error)
    assert "[" not in str(error)
    assert (error.attempts, error.retryable, error.outcome) == (1, False, "not_sent")
    assert "Nothing was sent; check base_url and certificates." in str(error)
    assert error.__cause__ is error.__context__ is None


async def test_a_stream_ends_where_tls_is_refused() -> None:
    """It would meet the same certificate forever; catches twenty attempts at it."""
    with RawServer(secured(answering(answer()))) as server:
        url = server.base_url.replace("http://127.0.0.1", "https://localhost")
        async with AsyncPerkamoClient("sk_x", base_url=url) as client:
            stream = client.subscribe_customer("u", "jwt")
            with pytest.raises(PerkamoStreamError, match="the TLS connection was refused") as caught:
                await stream.receive()
        assert server.accepted == 1

    assert (caught.value.retryable, caught.value.attempts) == (False, 1)


@pytest.mark.parametrize(
    ("text", "attempts"),
    [
        ("[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error (_ssl.c:1006)", 3),
        ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)", 3),
        ("[SSL: SSLV3_ALERT_BAD_RECORD_MAC] sslv3 alert bad record mac (_ssl.c:1006)", 3),
        ("[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure (_ssl.c:1006)", 1),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca (_ssl.c:1006)", 1),
    ],
)
async def test_what_a_peer_under_load_says_passes(text: str, attempts: int) -> None:
    """An alert of a service that is stopping is a passing fault; catches a deployment that loses events."""
    tries: list[str] = []

    def handle(_: httpx.Request) -> httpx.Response:
        tries.append(text)
        raise httpx.ConnectError(text) from ssl.SSLError(1, text)

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http,
        AsyncPerkamoClient("sk_x", base_url="https://api.test", http_client=http, retry=QUICK) as client,
    ):
        with pytest.raises(PerkamoConnectionError) as caught:
            await client.emit("u", "e")

    assert (len(tries), caught.value.retryable) == (attempts, attempts == 3)


async def test_tls_that_breaks_after_the_handshake_is_a_broken_connection() -> None:
    """The event may have arrived, and another connection may do; catches an event that is given up as refused."""
    text = "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:2578)"

    def handle(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError(text) from ssl.SSLError(1, text)

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http,
        AsyncPerkamoClient("sk_x", base_url="https://api.test", http_client=http, retry=QUICK) as client,
    ):
        with pytest.raises(PerkamoConnectionError, match=r"wrong version number\. It may have been") as caught:
            await client.emit("u", "e")

    assert (caught.value.attempts, caught.value.retryable) == (3, True)


def test_an_error_that_only_follows_a_tls_error_is_none() -> None:
    """A timeout after a handshake that failed before is a timeout; catches any cause that makes an error final."""
    request = httpx.Request("GET", "https://api.test")
    problem = httpx.ConnectTimeout("slow")
    problem.__context__ = ssl.SSLCertVerificationError(1, "certificate verify failed")

    result = result_of(problem, request, begun=False, external=True)

    assert not isinstance(result, tuple)
    assert result is not None
    assert result.kind == "timeout"


SCRIPT = """
import sys
import anyio
from perkamo import AsyncPerkamoClient, PerkamoError, RetryPolicy

async def main():
    url, kind, proxy = sys.argv[1:4]
    try:
        client = AsyncPerkamoClient("sk_x", base_url=url, retry=RetryPolicy(base_delay=0), proxy=proxy or None)
        async with client:
            if kind == "stream":
                await client.subscribe_customer("u", "jwt").receive()
            else:
                await client.emit("u", "e")
    except PerkamoError as error:
        print(type(error).__name__, error.attempts, error.retryable, error.outcome, error)

anyio.run(main)
"""


def run(url: str, kind: str, proxy: str, **environment: str) -> str:
    """Make one call in a process with these variables, and return all that it says."""
    command = [sys.executable, "-c", SCRIPT, url, kind, proxy]
    done = subprocess.run(command, env={"PATH": "/usr/bin", **environment}, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("variable", "kind", "problem"),
    [
        ("SSL_CERT_FILE", "call", "missing"),
        ("SSL_CERT_FILE", "call", "garbage"),
        ("SSL_CERT_DIR", "call", "missing"),
        ("SSLKEYLOGFILE", "call", "missing"),
        ("SSLKEYLOGFILE", "call", "garbage"),
        ("SSL_CERT_FILE", "stream", "missing"),
        ("SSL_CERT_FILE", "call through a proxy", "missing"),
    ],
)
def test_a_variable_that_names_a_wrong_file_is_named(variable: str, kind: str, problem: str, tmp_path: Path) -> None:
    """A configuration error after one attempt, never retryable; catches "No such file or directory", three times."""
    wrong = tmp_path / "folder" / "file.pem"
    if problem == "garbage":
        wrong.parent.mkdir()
        wrong.write_text("no certificate")
        if variable == "SSLKEYLOGFILE":
            wrong = wrong.parent  # a folder can't be written to
    with RawServer(secured(answering(answer()))) as server:
        url = server.base_url.replace("http://127.0.0.1", "https://localhost")
        proxy = "http://127.0.0.1:9" if "proxy" in kind else ""
        told = run(url, kind, proxy, **{variable: str(wrong)})
        assert server.accepted == 0

    assert told.startswith("PerkamoConfigurationError ")
    assert variable in told
    assert " False " in told
    assert told.count("\n") == 1


def test_the_right_file_is_used(tmp_path: Path) -> None:
    """The variable works where it is right; catches a check that refuses all of them."""
    file = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(str(file))
    with RawServer(secured(answering(answer()))) as server:
        url = server.base_url.replace("http://127.0.0.1", "https://localhost")
        keys = tmp_path / "keys.log"
        told = run(url, "call", "", SSL_CERT_FILE=str(file), SSLKEYLOGFILE=str(keys))
        assert len(server.requests) == 1

    assert told == ""
    assert keys.read_text()


def test_a_configuration_error_is_never_retryable() -> None:
    """What can't mend itself is not for an outbox to wait for in silence; catches a default that changed."""
    assert PerkamoConfigurationError("x").retryable is PerkamoError("x").retryable is False
