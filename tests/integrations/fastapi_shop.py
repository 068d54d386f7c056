"""A shop of FastAPI's with an outbox on disk: run by uvicorn as ``tests.integrations.fastapi_shop:app``."""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI, Request

from perkamo import Outbox, PerkamoError
from perkamo.integrations.fastapi import PerkamoDep, perkamo_error_handler, perkamo_lifespan
from tests.integrations import orders


@asynccontextmanager
async def opened(_: FastAPI) -> AsyncGenerator[Mapping[str, object]]:
    """Open the outbox for as long as the application runs; a process of its own delivers."""
    orders.create_table()
    async with Outbox(os.environ["PERKAMO_OUTBOX"]) as outbox:
        yield {"outbox": outbox}


app = FastAPI(lifespan=perkamo_lifespan(lifespan=opened))
app.add_exception_handler(PerkamoError, perkamo_error_handler)


@app.post("/orders/{order_id}/paid")
async def paid(order_id: str, amount: int, request: Request) -> dict[str, bool]:
    """Take a purchase; the event waits on the disk until Perkamo has it."""
    outbox: Outbox = request.state.outbox
    await outbox.put(await to_thread.run_sync(orders.save, order_id, amount))
    return {"accepted": True}


@app.post("/orders/{order_id}/paid-without-outbox")
async def paid_without_outbox(order_id: str, amount: int, perkamo: PerkamoDep) -> dict[str, bool]:
    """Take a purchase, and send the event at once."""
    result = await perkamo.emit_event(await to_thread.run_sync(orders.save, order_id, amount))
    return {"accepted": result.accepted}
