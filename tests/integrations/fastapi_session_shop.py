"""A shop of FastAPI's whose events go with the request's session: ``tests.integrations.fastapi_session_shop:app``."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from perkamo import PostgresOutbox
from perkamo.integrations.fastapi import PerkamoOutbox, perkamo_outbox
from tests.integrations.orders import event_of

SAVE = """
INSERT INTO orders VALUES (:id, :amount, :now)
ON CONFLICT (id) DO UPDATE SET amount = orders.amount RETURNING amount, paid_at
"""
engine = create_async_engine(os.environ["SHOP_DSN"].replace("postgresql://", "postgresql+psycopg://"))


async def get_session() -> AsyncIterator[AsyncSession]:
    """Give a request its session, which is committed at its end, before the answer is sent."""
    async with AsyncSession(engine) as session, session.begin():
        yield session


in_request = Depends(get_session, scope="function")
Session = Annotated[AsyncSession, in_request]
Kept = Annotated[PerkamoOutbox, Depends(perkamo_outbox(PostgresOutbox(), in_request))]
app = FastAPI()


@app.post("/orders/{order_id}/paid")
async def paid(order_id: str, amount: int, session: Session, outbox: Kept) -> dict[str, bool]:
    """Take a purchase; order and event are rows of one transaction."""
    values = {"id": order_id, "amount": amount, "now": datetime.now(UTC).isoformat()}
    saved = (await session.execute(text(SAVE), values)).one()
    await outbox.put(event_of(order_id, saved.amount, saved.paid_at))
    return {"accepted": True}
