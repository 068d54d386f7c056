"""call: what a call says that the loop's end prevented."""

import threading

import pytest

from perkamo.errors import PerkamoClosedError
from perkamo.sync.call import LoopCall
from perkamo.sync.loop_thread import LoopThread


def test_a_call_that_the_end_prevented_was_not_sent() -> None:
    """Its function was never called, so it may be sent again; catches an outcome that nobody knows."""
    thread = LoopThread()
    thread.wait_until_started()
    called: list[int] = []
    both_are_queued = threading.Event()

    async def note() -> None:
        called.append(1)

    def begin_to_end() -> None:
        thread.ending = True

    call = LoopCall(thread, note)
    thread.call_soon(both_are_queued.wait)
    call.begin()
    thread.call_soon(begin_to_end)  # when the task was made, and has not run yet
    both_are_queued.set()
    call.wait(10)

    with pytest.raises(PerkamoClosedError, match="Nothing was sent") as caught:
        call.result()
    assert (caught.value.outcome, called) == ("not_sent", [])
    thread.stop()
