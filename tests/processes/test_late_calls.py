"""sync_client: calls when the main thread has ended or in an exit handler, by host name (finding 0.5)."""

import sys

import pytest

from tests.faults.rawserver import Connection, RawServer, answer
from tests.processes.script import run

LATE = """
import atexit, sys, threading
from perkamo import PerkamoClient, PerkamoError

client = PerkamoClient("sk_test_late", base_url=sys.argv[1], timeout=20)

def call(name):
    try:
        print(client.customer(name).user_id)
    except PerkamoError as error:
        print(type(error).__name__, error.outcome)

def late():
    threading.main_thread().join()
    call("thread")
    client.close() if sys.argv[2] == "closed" else None

if sys.argv[2] != "cold":
    call("warm")
threading.Thread(target=late).start()
atexit.register(call, "handler")
"""


def echo_once(connection: Connection) -> None:
    """Answer one request with the customer that it asks for; the next call has to look the name up again."""
    request = connection.read_request()
    assert request is not None
    name = request.line.split()[1].rsplit("/", 1)[-1]
    connection.send(answer(b'{"user_id":"%s"}' % name.encode(), headers=["connection: close"]))


@pytest.mark.skipif(
    (3, 12, 0) <= sys.version_info < (3, 12, 3), reason="starts no thread when the main thread has ended (gh-113964)"
)
@pytest.mark.parametrize("state", ["warm", "cold"])
def test_late_calls_look_a_name_up_and_get_their_answers(state: str) -> None:
    """A script whose main thread only starts others works to its end; catches an executor that has shut down."""
    with RawServer(echo_once) as server:
        ended = run(LATE, server.base_url.replace("127.0.0.1", "localhost"), state, options=("-X", "dev"))

    assert ended.out.splitlines()[-2:] == ["thread", "handler"], ended.err
    assert ended.code == 0


def test_a_late_call_of_a_closed_client_says_so() -> None:
    """The exit changes nothing about a client's own state; catches a hang, and an untyped error."""
    with RawServer(echo_once) as server:
        ended = run(LATE, server.base_url.replace("127.0.0.1", "localhost"), "closed", options=("-X", "dev"))

    assert ended.out.splitlines()[-1] == "PerkamoClosedError not_sent", ended.err
    assert ended.code == 0
