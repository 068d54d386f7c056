"""sync_client: a process ends when its own work ends, however that is (P15)."""

from pathlib import Path

import pytest

from perkamo.sandbox import Sandbox
from tests.faults.rawserver import RawServer, answer, answering
from tests.faults.rows import stall
from tests.processes.script import run

PROGRAM = """
import atexit, os, signal, sys, threading, time
from perkamo import PerkamoClient, PerkamoError

url, ending, closing, state = sys.argv[1:]
client = PerkamoClient("sk_test_exit", base_url=url, timeout=30)

if state == "idle":
    client.emit("u", "e")
else:
    thread = threading.Thread(target=lambda: client.emit("u", "e"), daemon=True)
    threading.excepthook = lambda _: None  # the call in flight is cut off, which is no news here
    thread.start()
    time.sleep(0.3)
if closing == "closed":
    client.close()
print("END")
if ending == "return":
    pass
elif ending == "exit":
    sys.exit(3)
elif ending == "exception":
    raise ValueError("on purpose")
elif ending == "SIGTERM":
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
else:
    os._exit(4)
"""
CODES = {"return": 0, "exit": 3, "exception": 1, "SIGTERM": -15, "_exit": 4}


@pytest.mark.sample(3)
@pytest.mark.parametrize("state", ["idle", "in flight"])
@pytest.mark.parametrize("closing", ["closed", "left open"])
@pytest.mark.parametrize("ending", CODES)
def test_a_process_ends_with_its_own_work(ending: str, closing: str, state: str) -> None:
    """Within a second of its end, by host name, with nothing complained about; catches a thread that is waited for."""
    script = answering(answer()) if state == "idle" else stall
    with RawServer(script) as server:
        url = server.base_url.replace("127.0.0.1", "localhost")
        for _ in range(3):
            ended = run(PROGRAM, url, ending, closing, state, options=("-X", "dev"))
            if ended.after_end < 2.0:
                break

    assert ended.after_end < 2.0  # one second on a quiet machine; a call under way would take 10
    assert ended.code == CODES[ending]
    assert ended.out.endswith("END\n")
    complaints = [line for line in ended.err.splitlines() if "on purpose" not in line and "Traceback" not in line]
    told_to_close = [line for line in complaints if "was never closed" in line]
    rest = [line for line in complaints if line not in told_to_close and not line.startswith("  ")]
    assert rest == []
    assert not told_to_close or closing == "left open"


def test_a_call_in_an_atexit_handler_works_or_says_why(sandbox: Sandbox) -> None:
    """A last call at exit ends at once, with a result or a typed error; catches a hang in interpreter shutdown."""
    code = """
    import atexit, sys
    from perkamo import PerkamoClient, PerkamoError

    def last():
        try:
            print("applied", client.emit("u", "e").applied)
        except PerkamoError as error:
            print("typed", type(error).__name__)

    atexit.register(last)
    client = PerkamoClient(sys.argv[1], base_url=sys.argv[2].replace("127.0.0.1", "localhost"))
    if sys.argv[3] == "warm":
        client.program()
    atexit.register(last)
    """
    for state in ("warm", "cold"):
        ended = run(code, sandbox.api_key, sandbox.base_url, state, options=("-X", "dev"))

        assert ended.code == 0
        assert set(ended.out.splitlines()) <= {
            "applied True",
            "typed PerkamoClosedError",
            "typed PerkamoConnectionError",
        }
        assert len(ended.out.splitlines()) == 2


def test_a_client_that_nobody_closed_is_complained_about_and_its_sockets_are_closed(sandbox: Sandbox) -> None:
    """Garbage collection warns with the remedy, hangs nowhere and leaks no descriptor; catches a silent leak."""
    code = """
    import gc, os, sys, time, warnings
    from perkamo import PerkamoClient

    warnings.simplefilter("always")
    seen = []
    warnings.showwarning = lambda message, category, *rest: seen.append((category.__name__, str(message)))
    PerkamoClient(sys.argv[1], base_url=sys.argv[2]).close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        client = PerkamoClient(sys.argv[1], base_url=sys.argv[2])
        client.program()
        del client
    gc.collect()
    for _ in range(100):
        if len(os.listdir("/proc/self/fd")) <= before:
            break
        time.sleep(0.05)
    leaked = len(os.listdir("/proc/self/fd")) - before
    print(len(seen), {name for name, _ in seen}, "call 'client.close()'" in seen[0][1], leaked)
    """
    ended = run(code, sandbox.api_key, sandbox.base_url, options=())

    assert ended.out == "20 {'ResourceWarning'} True 0\n", ended.err


LATE = """
import atexit, sys
from perkamo import PerkamoClient

client = PerkamoClient("sk_test", base_url=sys.argv[1], timeout=20)
client.customer("ada")
stream = client.subscribe_customer("ada", "st_test")
atexit._run_exitfuncs()
for name, module in list(sys.modules.items()):  # as the interpreter does, in an order that nobody chooses
    if name.startswith("perkamo."):
        for key in vars(module):
            if not key.startswith("__"):
                setattr(module, key, None)
del stream, client, module
"""


def test_finalizers_that_come_late_say_nothing() -> None:
    """A module-level client is collected when modules have lost their names, as under uWSGI; catches a TypeError."""
    with RawServer(answering(answer(b'{"user_id":"ada"}'))) as server:
        ended = run(LATE, server.base_url, options=())

    assert (ended.code, ended.err) == (0, "")


NEVER_LEFT = """
import logging, sys
from perkamo import Event, PerkamoClient, SyncOutbox

logging.getLogger("perkamo").addHandler(logging.NullHandler())
outbox = SyncOutbox(sys.argv[2])
relay = outbox.relay(PerkamoClient("sk_test_exit", base_url=sys.argv[1]))
relay.__enter__()
outbox.put(Event("u", "e", "t"))
"""


def test_a_relay_that_nobody_stopped_ends_with_the_process(tmp_path: Path) -> None:
    """An application enters it at its start and just ends; catches "Exception ignored in" on the way out."""
    with RawServer(answering(answer(b"{}"))) as server:
        ended = run(NEVER_LEFT, server.base_url, str(tmp_path / "outbox"), options=())

    assert (ended.code, ended.err) == (0, "")
