"""A file in use is lent to whoever wants to look into it, and nothing is lost, doubled or held up by that."""

import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from perkamo import AsyncPerkamoClient
from perkamo.events import Event
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.sqlite import slots as slots_module
from perkamo.outbox.sqlite import writer as writer_module
from perkamo.outbox.sqlite.ownership import SpoolDirectory
from perkamo.outbox.sqlite.slots import Slots
from perkamo.outbox.sqlite.storage import SlotUnavailableError
from perkamo.sandbox import Sandbox
from perkamo.sandbox.messages import Response

pytestmark = pytest.mark.anyio


def event(number: int) -> Event:
    """Make an event with an id of its own."""
    return Event(f"customer_{number}", "review.created", f"review_{number}")


def look(path: Path) -> tuple[int, int]:
    """Look into all slots as another process does; return how many events wait and are dead."""
    directory = SpoolDirectory(path)
    counts = [Slots(directory).visit(slot, lambda file: file.committed) for slot in directory.slots()]
    return sum(one.pending for one in counts), sum(one.dead for one in counts)


async def test_a_file_under_steady_load_is_lent(sandbox: Sandbox, client: AsyncPerkamoClient, tmp_path: Path) -> None:
    """Ten looks while events come and go; catches a look that waits for a quiet moment, and an event that it costs."""
    sandbox.add_handler(lambda request: Response(422, body=b"{}") if b'"review_3"' in request.body else None)
    path = tmp_path / "outbox"
    looks: list[tuple[int, int]] = []
    put = 0
    async with client, Outbox(path) as box, box.relay(client), anyio.create_task_group() as tasks:

        async def look_ten_times() -> None:
            while len(looks) < 10:
                looks.append(await anyio.to_thread.run_sync(look, path))
            tasks.cancel_scope.cancel()

        tasks.start_soon(look_ten_times)
        with anyio.fail_after(60):
            while True:
                with anyio.CancelScope(shield=True):
                    await box.put(event(put))
                put += 1
                await anyio.lowlevel.checkpoint()

    async with AsyncPerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as again, Outbox(path) as box:
        stats = await box.drain(again)

    assert len(looks) == 10
    assert (stats.accepted, stats.delivered, stats.dead, stats.set_aside) == (put, put - 1, 1, 0)
    assert len(sandbox.events()) == put - 1
    assert stats.files <= 3


async def test_a_file_that_waits_for_a_good_key_is_lent(
    sandbox: Sandbox, client: AsyncPerkamoClient, tmp_path: Path
) -> None:
    """For a minute nothing is put and nothing is tried; catches an owner that looks around only when it has work."""
    sandbox.add_handler(lambda _: Response(401))
    async with client, Outbox(tmp_path / "outbox") as box:
        async with box.relay(client) as relay:
            await box.put(event(1))
            with anyio.fail_after(20):
                while relay.trouble is None:  # noqa: ASYNC110 - the relay tells nobody
                    await anyio.sleep(0.01)

            assert await anyio.to_thread.run_sync(look, tmp_path / "outbox") == (1, 0)

        sandbox.renew()
        assert (await box.drain(client)).delivered == 1


async def test_who_waits_and_never_looks_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor that stands still costs one wait, not one each quarter of a second; catches puts that crawl."""
    monkeypatch.setattr(writer_module, "LEND_AFTER", 0.0)
    monkeypatch.setattr(writer_module, "LEND_SECONDS", 0.05)
    closings = 0
    async with Outbox(tmp_path / "outbox") as box:
        await box.put(event(0))
        right = SpoolDirectory(tmp_path / "outbox").claim_visit(0)
        assert right is not None
        close = box._writer._close_file

        def count() -> None:
            nonlocal closings
            closings += 1
            close()

        monkeypatch.setattr(box._writer, "_close_file", count)
        box._writer.keepers += 1  # as a relay does, so that the file is not given back for other reasons
        box._writer._look_at = 0.0
        for number in range(1, 50):
            await box.put(event(number))
        assert closings == 1
        right.release()
        assert (await box.stats()).accepted == 50


async def test_two_who_look_take_turns(tmp_path: Path) -> None:
    """Both get their look; catches a second one that is refused because somebody asked before."""
    async with Outbox(tmp_path / "outbox") as box:
        box._writer.keepers += 1
        await box.put(event(1))
        seen: list[tuple[int, int]] = []
        threads = [threading.Thread(target=lambda: seen.append(look(tmp_path / "outbox"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        number = 2
        while any(thread.is_alive() for thread in threads):
            await box.put(event(number))
            number += 1

    assert [dead for _, dead in seen] == [0, 0]


async def test_an_owner_without_a_thread_lends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look gives up in bounded time, with the reason; catches one that waits for ever."""
    monkeypatch.setattr(slots_module, "_PATIENCE", 0.1)
    claim = SpoolDirectory(tmp_path / "outbox").claim(0)
    assert claim is not None

    with pytest.raises(SlotUnavailableError):
        await anyio.to_thread.run_sync(look, tmp_path / "outbox")
    claim.release()
