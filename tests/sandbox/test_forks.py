"""Forked processes and a running sandbox."""

import json
import os
import socket
import threading
import time
import traceback

import pytest

from perkamo.sandbox import Sandbox, SandboxError
from tests.sandbox.caller import event
from tests.sandbox.marks import forking
from tests.sandbox.wire import Sender, address_of, signed_headers


@forking
def test_a_forked_child_calls_the_parents_sandbox(sandbox: Sandbox, wire: Sender) -> None:
    """Expect the child to reach it by its port, reading its copy to be an error, and the parent to see the event."""
    wire.get("/v1/program")
    child = os.fork()
    if child == 0:
        os._exit(_in_child(sandbox))

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [applied.transaction_id for applied in sandbox.events()] == ["from_the_child"]
    assert wire.get("/v1/program").status == 200


def _in_child(sandbox: Sandbox) -> int:
    try:
        wire = Sender(sandbox)
        assert wire.send("GET", "/_sandbox/health", b"", {}).status == 200
        raw = json.dumps(event(transaction_id="from_the_child")).encode()
        headers = signed_headers(sandbox.api_key, time.time(), "/v1/events", raw)
        assert wire.send("POST", "/v1/events", raw, headers).json["applied"] is True
        for look in (sandbox.events, sandbox.faults.clear, sandbox.clock.time):
            with pytest.raises(SandboxError, match="forked copy"):
                look()
        sandbox.stop()
    except BaseException:  # noqa: BLE001 - a child must not go on with the parent's tests, whatever happens
        traceback.print_exc()
        return 1
    return 0


@forking
def test_a_forked_copy_that_serves_no_socket_works() -> None:
    """Expect an in-process sandbox to go on in a child, even when its lock was held by another thread at the fork."""
    sandbox = Sandbox()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with sandbox._lock:
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    child = os.fork()
    if child == 0:
        os._exit(len(sandbox.events()))
    done.set()
    thread.join()

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@forking
def test_a_living_child_does_not_keep_connections_or_the_port(sandbox: Sandbox, wire: Sender) -> None:
    """Expect what the parent closes to be closed while a child lives: else clients would wait for a dead server."""
    wire.get("/v1/program")
    address = address_of(sandbox)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    os.close(ours)
    try:
        sandbox.stop()

        assert wire.connection.sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
    finally:
        os.close(theirs)
        os.waitpid(child, 0)
