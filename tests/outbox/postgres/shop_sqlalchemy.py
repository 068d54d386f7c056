"""A shop with SQLAlchemy, which takes orders until it is killed."""

import os
from itertools import count

from sqlalchemy import Integer, Text, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from perkamo import Event, PostgresOutbox

engine = create_engine(os.environ["SHOP_URL"])
outbox = PostgresOutbox(space="shop")


class Base(DeclarativeBase):
    """The shop's tables."""


class Order(Base):
    """An order."""

    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    amount: Mapped[int] = mapped_column(Integer)


def take_orders(name: str) -> None:
    """Take orders, and change one's mind about every third."""
    for number in count():
        with Session(engine) as session:
            session.add(Order(id=f"{name}-{number}", amount=12900))
            outbox.put(session, Event("customer", "purchase.completed", f"{name}-{number}", {"amount": 12900}))
            (session.rollback if number % 3 == 2 else session.commit)()
