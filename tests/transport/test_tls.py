"""sockets: TLS over real sockets, with certificates made by the test (F04)."""

import socket
import ssl
import subprocess
import sys
import threading

import anyio
import httpx
import pytest
import trustme

from perkamo.transport.transport import Transport
from tests.faults.rawserver import Connection, RawServer, Script, answer
from tests.transport.pool import ask, assert_sound, client_over, echo, idle_count, lost_places
from tests.transport.tls import client_context, https, secured, server_context, trusting
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_calls_share_a_connection_over_tls(version: ssl.TLSVersion) -> None:
    """Catches session tickets, which come unasked, taken for an answer."""
    with RawServer(secured(echo, "localhost", version=version)) as server:
        async with client_over(trusting()) as client:
            answers = [await ask(client, https(server), text) for text in "abc"]

    assert answers == ["a", "b", "c"]
    assert server.accepted == 1


async def test_an_address_is_checked_against_the_certificate() -> None:
    """Catches a server name that is only set for names."""
    with RawServer(secured(echo, "127.0.0.1")) as server:
        async with client_over(trusting()) as client:
            assert await ask(client, server.base_url.replace("http:", "https:"), "a") == "a"


async def test_no_server_is_offered_another_protocol() -> None:
    """By a context that was made for HTTP/2 as well; catches a server that begins to speak it."""
    offering, serving = client_context(), server_context("localhost")
    for context in (offering, serving):
        context.set_alpn_protocols(["h2", "http/1.1"])
    chosen: list[str | None] = []

    def serve(connection: Connection) -> None:
        with serving.wrap_socket(connection.socket, server_side=True) as secure:
            chosen.append(secure.selected_alpn_protocol())
            connection.socket = secure
            echo(connection)

    with RawServer(serve) as server:
        async with client_over(Transport(ssl_context=offering)) as client:
            assert await ask(client, https(server), "a") == "a"

    assert chosen == ["http/1.1"]


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 5_000_000])
async def test_bodies_of_every_size_arrive_whole_over_tls(size: int) -> None:
    """Over many records and many writes; catches a record that is lost or sent twice."""
    text = ("0123456789" * (size // 10 + 1))[:size]
    with RawServer(secured(echo, "localhost")) as server:
        async with client_over(trusting()) as client:
            assert await ask(client, https(server), text) == text


def no_tls(connection: Connection) -> None:
    """Answer the client's hello in plain HTTP, as a web server does on the wrong port."""
    connection.read_some(65536)
    connection.send(answer(b"", "400 Bad Request"))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (secured(echo, "other.test"), "Hostname mismatch"),
        (secured(echo, "localhost", ca=trustme.CA()), "verify failed"),
        (no_tls, None),
    ],
    ids=["wrong host", "untrusted", "no TLS"],
)
async def test_who_cannot_be_trusted_gets_nothing(script: Script, reason: str | None) -> None:
    """A bare SSLError is the cause, so that it can be told from a fault that passes; no request is sent."""
    transport = trusting(max_connections=1)
    with RawServer(script) as server:
        async with client_over(transport) as client:
            for _ in range(2):
                with pytest.raises(httpx.ConnectError, match=reason) as caught:
                    await ask(client, https(server), "secret")
                cause = caught.value.__cause__
                assert isinstance(cause, ssl.SSLCertVerificationError if reason else ssl.SSLError)
                assert cause.__context__ is None
                assert lost_places(transport) == 0

    assert not server.requests


def reset_in_handshake(connection: Connection) -> None:
    """Read the client's hello and reset."""
    connection.read_some(10)
    connection.reset()


def hang_up_in_handshake(connection: Connection) -> None:
    """Read the client's hello and end in order."""
    connection.read_some(65536)


@pytest.mark.parametrize("script", [reset_in_handshake, hang_up_in_handshake])
async def test_a_handshake_that_breaks_off_may_be_tried_again(script: Script) -> None:
    """It is a connect error that no certificate caused; catches one that is taken for distrust."""
    transport = trusting(max_connections=1)
    with RawServer(script, secured(echo, "localhost")) as server:
        async with client_over(transport) as client:
            with pytest.raises(httpx.ConnectError) as caught:
                await ask(client, https(server), "a")
            assert not isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            await assert_sound(transport, client, https(server))


async def test_a_handshake_that_hangs_ends_with_the_connect_timeout() -> None:
    """Catches a timeout that covers TCP alone."""

    def silent(connection: Connection) -> None:
        connection.stall()

    with RawServer(silent) as server:
        async with httpx.AsyncClient(transport=trusting(), timeout=httpx.Timeout(20, connect=0.1)) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.get(https(server))


@pytest.mark.parametrize("later", [False, True], ids=["in one piece", "later"])
async def test_surplus_bytes_over_tls_never_reach_the_next_call(*, later: bool) -> None:
    """Row F45; catches a record that waits in the TLS layer, where the socket looks quiet."""
    sent: list[int] = []

    def script(connection: Connection) -> None:
        connection.read_request()
        if later:
            connection.send(answer(b"good"))
            connection.send(answer(b"evil"))
        else:
            connection.send(answer(b"good") + answer(b"evil"))
        sent.append(1)
        connection.stall()

    with RawServer(secured(script, "localhost"), secured(echo, "localhost")) as server:
        async with client_over(trusting()) as client:
            first = await ask(client, https(server), "a")
            await until(lambda: sent)
            second = await ask(client, https(server), "b")

    assert (first, second) == ("good", "b")


async def test_an_idle_connection_that_the_server_closed_is_passed_over_with_tls() -> None:
    """Row F08; catches a farewell that is taken for silence."""
    closed: list[int] = []

    def once(connection: Connection) -> None:
        request = connection.read_request()
        assert request is not None
        connection.send(answer(request.body))
        assert isinstance(connection.socket, ssl.SSLSocket)
        connection.socket.shutdown(socket.SHUT_RDWR)
        closed.append(connection.number)

    transport = trusting(max_connections=1)
    with RawServer(secured(once, "localhost")) as server:
        async with client_over(transport) as client:
            for number in range(3):
                assert await ask(client, https(server), f"{number}") == f"{number}"
                await until(lambda number=number: number in closed)  # type: ignore[misc]  # mypy can't infer it
                assert (lost_places(transport), idle_count(transport)) == (0, 1)

    assert server.accepted == 3


async def test_an_answer_during_the_upload_is_heard_over_tls() -> None:
    """Row F13; catches bytes of the answer that are lost when the upload looks for them."""

    def script(connection: Connection) -> None:
        connection.read_some(100)
        connection.send(answer(b"too much", "413 Too Large"))
        connection.stall()

    with RawServer(secured(script, "localhost")) as server:
        async with client_over(trusting()) as client:
            response = await client.post(https(server), content=b"x" * 20_000_000)

    assert (response.status_code, response.text) == (413, "too much")


async def test_a_server_that_hangs_up_during_an_upload_is_noticed_over_tls() -> None:
    """Row F13; catches a write that looks again and again for the room that never comes."""

    def script(connection: Connection) -> None:
        connection.read_some(100)
        socket.socket.shutdown(connection.socket, socket.SHUT_WR)
        connection.server.stopping.wait(30)

    with RawServer(secured(script, "localhost")) as server:
        async with client_over(trusting()) as client:
            with pytest.raises(httpx.TransportError) as caught:
                await client.post(https(server), content=b"x" * 20_000_000, timeout=10)

    assert not isinstance(caught.value, httpx.TimeoutException)


async def test_a_cut_connection_is_no_end_of_a_body() -> None:
    """Without a length, TLS alone says where a body ends; catches an answer that an attacker cuts short."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        connection.socket.shutdown(socket.SHUT_WR)
        connection.stall()

    with RawServer(secured(script, "localhost")) as server:
        async with client_over(trusting()) as client:
            with pytest.raises(httpx.ReadError):
                await ask(client, https(server), "a")


async def test_a_call_cancelled_in_the_handshake_costs_no_place() -> None:
    """Catches a socket that nobody closes between TCP and TLS."""
    greeted = threading.Event()

    def silent(connection: Connection) -> None:
        connection.socket.recv(1)
        greeted.set()
        connection.stall()

    transport = trusting(max_connections=1)
    with RawServer(silent, secured(echo, "localhost")) as server:
        async with client_over(transport) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(ask, client, https(server), "a")
                await until(greeted.is_set)
                group.cancel_scope.cancel()
            await assert_sound(transport, client, https(server))


def test_the_context_is_made_once_and_not_before_it_is_needed() -> None:
    """It takes 26 ms; catches one per client, and one at construction."""
    code = (
        "import httpx, ssl\n"
        "made = []\n"
        "original = httpx.create_ssl_context\n"
        "httpx.create_ssl_context = lambda *a, **k: made.append(1) or original(*a, **k)\n"
        "from perkamo import Transport\n"
        "from perkamo.transport.tls import shared_context\n"
        "Transport(), Transport(); print(len(made))\n"
        "assert shared_context() is shared_context(); print(len(made))\n"
        "assert shared_context().verify_mode is ssl.CERT_REQUIRED and shared_context().check_hostname\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["0", "1"]
