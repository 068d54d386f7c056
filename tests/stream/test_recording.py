"""A recording, cut after every byte: whatever is lost of a connection, nothing is lost of the stream."""

import anyio
import pytest

from perkamo import CustomerUpdate
from tests.faults.rawserver import Connection, RawServer
from tests.stream.scripts import HEAD, PLAIN, OwnedTime, event, subscribe

pytestmark = pytest.mark.anyio


def _block(number: int) -> bytes:
    """One of the shapes that a service may give a block; each has an id."""
    plain = event(number, f"evt_{number:02}", "customer.updated")
    match number % 6:
        case 0:
            return b": a comment\n" + plain
        case 1:
            return plain.replace(b"\n", b"\r\n")
        case 2:
            return plain.replace(b"\n", b"\r")
        case 3:
            return plain.replace(b'"wallets"', '"traits":{"name":"Žofie 😀"},"wallets"'.encode())
        case 4:
            return plain.replace(b', "wallets"', b',\ndata:  "wallets"')
        case _:
            return b"retry: 10\nid: evt_" + f"{number - 1:02}".encode() + b"\n\n" + plain


BLOCKS = [_block(number) for number in range(1, 19)]
RECORDING = b"".join(BLOCKS)
IDS = [f"evt_{number:02}" for number in range(1, 19)]


def test_the_recording_is_two_kilobytes() -> None:
    """The promise is about every byte of two kilobytes."""
    assert 1900 <= len(RECORDING) <= 2300


@pytest.mark.stress
@pytest.mark.slow_on_each_backend
@pytest.mark.no_cover
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.release)])
async def test_a_cut_after_any_byte_loses_and_doubles_nothing(step: int) -> None:
    """Cut the first connection after each seventh byte, or each: with the resume, the list of updates is identical."""
    cut = len(RECORDING)
    cuts = range(0, len(RECORDING), step)
    rest_sent = False

    def script(connection: Connection) -> None:
        nonlocal rest_sent
        request = connection.read_request()
        assert request is not None
        seen = request.headers.get("last-event-id")
        if not rest_sent:
            rest_sent = True
            connection.send(HEAD + RECORDING[:cut])
            return
        start = 0 if seen is None else IDS.index(seen) + 1
        connection.send(HEAD + b"".join(BLOCKS[start:]) + event(99, "end"))
        connection.stall()

    async def listen() -> list[CustomerUpdate]:
        nonlocal rest_sent
        rest_sent = False
        updates: list[CustomerUpdate] = []
        async with subscribe(server, time=OwnedTime(), policy=PLAIN) as stream:
            async for update in stream:
                if update.id == "end":
                    break
                updates.append(update)
        return updates

    with RawServer(script) as server, anyio.fail_after(300):
        whole = await listen()
        lists = []
        for at in cuts:
            cut = at
            lists.append(await listen())

    assert [update.id for update in whole] == IDS
    assert [place for place, updates in zip(cuts, lists, strict=True) if updates != whole] == []
