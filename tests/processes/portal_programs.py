"""Programs that use the portal as the generated clients do, and end or fork in every way: for ``test_portal_*.py``."""

import asyncio
import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Final

from perkamo import Event, SyncOutbox
from perkamo.errors import PerkamoClosedError, PerkamoError
from perkamo.sync import portal
from perkamo.sync.portal import iterate, run, wrap_async_context_manager
from tests.processes.lines import ask

AT_A_TIME: Final = 8


async def refuse_to_end(under_way: threading.Event) -> None:
    """Ignore every cancellation."""
    under_way.set()
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


def exits(ending: str, state: str, port: str) -> None:
    """End in one of the ways while a call is under way or none."""
    assert run(ask, int(port), "warm") == "warm"
    under_way = threading.Event()

    def call() -> None:
        with suppress(PerkamoClosedError):
            if state == "held by the server":
                run(ask, int(port), "hold", under_way)
            else:
                run(refuse_to_end, under_way)

    if state != "idle":
        threading.Thread(target=call, daemon=True).start()
        under_way.wait()
    say("ready")
    end(ending)


def end(how: str) -> None:
    """End this process."""
    if how == "SIGTERM":
        time.sleep(60)  # until the test sends it
    say("END")
    match how:
        case "sys.exit":
            sys.exit(3)
        case "exception":
            raise RuntimeError("on purpose")
        case "os._exit":
            os._exit(4)
        case _:
            return


async def where(step: float = 0.001) -> str:
    """Tell in which thread this runs, after a while."""
    await asyncio.sleep(step)
    return threading.current_thread().name


async def numbers() -> AsyncIterator[str]:
    """Count."""
    for n in "12":
        yield n


def call_in_handler() -> None:
    """Call, and iterate; tell its result."""
    say(run(where))
    try:
        say(",".join(iterate(numbers())))
    except PerkamoClosedError as error:
        say(f"PerkamoClosedError, {error.outcome}")
    say("END")


def at_exit(state: str) -> None:
    """Have a handler call, after a call or as the first one, or leave it to a handler that is there already."""
    if state != "cold":
        run(where)
    if state != "registered before":
        atexit.register(call_in_handler)


def late_caller(state: str) -> None:
    """Call from a thread that the interpreter waits for, when the main thread has ended."""

    def call() -> None:
        threading.main_thread().join()
        say(run(where))
        say("END")

    if state == "warm":
        run(where)
    threading.Thread(target=call, name="of the caller").start()


def interrupted(port: str, times: str) -> None:
    """Make slow calls until each is interrupted by SIGINT, and a quick one after each."""
    for n in range(int(times)):
        try:
            run(ask, int(port), "hold")
        except KeyboardInterrupt:
            say(str(time.monotonic()))
        assert run(ask, int(port), f"next {n}") == f"next {n}"
    say("END")


def forks(port: str, number: str) -> None:
    """Fork children from a process whose threads are calling; each child calls and ends."""
    run(ask, int(port), "warm")

    stop = threading.Event()
    asked = count()
    wrong: list[str] = []

    def keep_calling(name: int) -> None:
        while not stop.is_set():
            line = f"parent {name} {next(asked)}"
            answer = run(ask, int(port), line)
            if answer != line:
                wrong.append(answer)

    threads = [threading.Thread(target=keep_calling, args=(name,)) for name in range(10)]
    for thread in threads:
        thread.start()
    codes: list[int] = []
    children: list[int] = []
    for n in range(int(number)):
        children.append(fork_one(n, lambda n=n: call_in_child(n, int(port))))  # type: ignore[misc]  # mypy can't infer a lambda's defaults
        if len(children) == AT_A_TIME or n == int(number) - 1:
            codes.extend(wait_for(children))
            children.clear()
    stop.set()
    for thread in threads:
        thread.join()
    say(f"children {len(codes)}, failed {sum(code != 0 for code in codes)}, parent wrong {len(wrong)}")
    assert run(ask, int(port), "parent after") == "parent after"


def call_in_child(n: int, port: int) -> None:
    """Call twice and compare."""
    for line in (f"child {n} first", f"child {n} second"):
        assert run(ask, port, line) == line


def fork_one(n: int, work: Callable[[], None]) -> int:
    """Fork a child that works, and ends by ``os._exit`` or, one of ten, as a program ends."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - the parent's program must not go on in the child
        say(f"child failed: {error!r}")
        os._exit(1)
    if n % 10:
        os._exit(0)
    sys.exit(0)


def wait_for(children: Sequence[int]) -> list[int]:
    """Wait for children; kill those that hang."""
    codes: list[int] = []
    patience = time.monotonic() + 30
    for pid in children:
        while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > patience:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        codes.append(done[1])
    return codes


def forks_with_lock(port: str, state: str) -> None:
    """Fork while another thread holds the lock under which a portal is made."""
    if state == "warm":
        portal.run(ask, int(port), "warm")
    held = threading.Event()
    over = threading.Event()

    def hold() -> None:
        with portal._of_process._lock:
            held.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    codes = wait_for([fork_one(n, lambda: call_in_child(0, int(port))) for n in range(2)])
    over.set()
    thread.join()
    say(f"codes {codes}")


def fork_unseen(fork: Callable[[], int], functions: set[str]) -> int:
    """Fork past the interpreter when all other threads are in these functions, where they wait for work.

    No hook is called that could wait for them, so that the child would inherit what they hold in C code.
    """
    main, interval = threading.main_thread().ident, sys.getswitchinterval()
    sys.setswitchinterval(60)  # no other thread gets the interpreter's lock between the look at it and the fork
    while not {frame.f_code.co_name for thread, frame in sys._current_frames().items() if thread != main} <= functions:
        time.sleep(0.001)
    child = fork()
    sys.setswitchinterval(interval)
    return child


def forks_unseen(port: str) -> None:
    """Fork past the interpreter, as C code may: no hook is called, and the parent's threads seem alive to the child."""
    run(ask, int(port), "warm")
    fork = ctypes.PyDLL(None).fork  # keeps the interpreter's lock, which no other thread may hold or wait for here
    idle = {"select", "_worker"}  # where the loop and the thread that looked the name up wait for more
    children: list[int] = []
    for _ in range(3):
        child = fork_unseen(fork, idle)
        if child == 0:
            call_in_child(0, int(port))
            os._exit(0)
        children.append(child)
    say(f"codes {wait_for(children)}")


def forks_unseen_outbox(directory: str) -> None:
    """Use an outbox before a fork that calls no hook, as uWSGI's, and in the children, each with three threads."""
    outbox = SyncOutbox(directory)
    outbox.put(Event("u", "e", "parent"))
    fork = ctypes.PyDLL(None).fork
    children: list[int] = []
    for number in range(2):
        child = fork_unseen(fork, {"select", "_worker", "_run"})
        if child == 0:
            events = [Event("u", "e", f"child_{number}_{n}") for n in range(3)]
            threads = [threading.Thread(target=outbox.put, args=(event,), daemon=True) for event in events]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            os._exit(sum(thread.is_alive() for thread in threads))
        children.append(child)
    codes = wait_for(children)
    outbox.put(Event("u", "e", "again"))
    say(f"codes {codes}, waiting {outbox.stats().pending}")


def forks_within_a_call(port: str) -> None:
    """Fork in a signal handler that interrupts a waiting call; see the child's call end in an error, and call again."""
    children: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: children.append(os.fork()))

    async def fork_me() -> str:
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.3)
        return "the parent's"

    try:
        say(run(fork_me))
    except PerkamoError as error:
        say(f"{type(error).__name__}, {error.outcome}")
    if children == [0]:
        call_in_child(0, int(port))
        os._exit(0)
    say(f"codes {wait_for(children)}")


def leaves_in_child() -> None:
    """Leave in a forked child what the parent entered, and iterate there what the parent began."""

    @asynccontextmanager
    async def manage() -> AsyncIterator[None]:
        try:
            yield
        finally:
            say(f"left by {'parent' if os.getpid() == parent else 'child'}")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            say(f"closed by {'parent' if os.getpid() == parent else 'child'}")

    def in_child() -> None:
        held.__exit__(None, None, None)
        try:
            next(steps)
        except PerkamoError as error:
            say(f"refused in the child, {error.outcome}")

    parent = os.getpid()
    held = wrap_async_context_manager(manage())
    held.__enter__()
    steps = iterate(numbers())
    next(steps)
    codes = wait_for([fork_one(1, in_child), fork_one(10, in_child)])
    assert next(steps) == 2
    assert list(steps) == []
    held.__exit__(None, None, None)
    say(f"codes {codes}")


def multiprocesses(port: str, method: str) -> None:
    """Call in worker processes of multiprocessing, from a warm parent."""
    run(ask, int(port), "warm")
    lines = [f"worker {n}" for n in range(20)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        answers = pool.starmap(ask_in_worker, [(int(port), line) for line in lines])
    say(f"right {sum(answer == line for answer, line in zip(answers, lines, strict=True))}")


def ask_in_worker(port: int, line: str) -> str:
    """Ask through the worker's own portal."""
    return run(ask, port, line)


def say(text: str) -> None:
    """Print a line in one piece: forked children share the output."""
    os.write(1, f"{text}\n".encode())


PROGRAMS: Final[dict[str, Callable[..., None]]] = {
    "at_exit": at_exit,
    "exits": exits,
    "forks": forks,
    "forks_with_lock": forks_with_lock,
    "forks_unseen": forks_unseen,
    "forks_unseen_outbox": forks_unseen_outbox,
    "forks_within_a_call": forks_within_a_call,
    "interrupted": interrupted,
    "late_caller": late_caller,
    "leaves_in_child": leaves_in_child,
    "multiprocesses": multiprocesses,
}


def main() -> None:
    """Run the program that the arguments name."""
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
