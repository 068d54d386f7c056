"""A shop whose events a worker of Celery's delivers: ``celery -A tests.integrations.celery_shop worker``."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from celery import Celery
from flask import Flask, Response, jsonify, request
from kombu.transport.filesystem import Channel
from kombu.utils.json import dumps

from perkamo import Event, EventIngestResponse, PerkamoClient
from perkamo.integrations.celery import PerkamoTask, deliver
from tests.integrations import flask_shop, orders

folder = Path(os.environ.get("SHOP_QUEUE", "queue"))
celery = Celery("shop", broker="filesystem://", set_as_current=False)
celery.conf.update(
    broker_transport_options={
        "polling_interval": 0.02,
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "processed_folder": str(folder / "processed"),
        "control_folder": str(folder / "control"),
    },
    broker_connection_retry_on_startup=True,
    worker_lost_wait=0.2,  # how long the pool waits for the result of a process that has died
)


def put_whole(self: Channel, queue: str, payload: object, **_: object) -> None:
    """Put a message: kombu's own way shows it before it is written, and a worker that reads half a message ends.

    Its SQLite broker is no better: a signal interrupts a commit, and its session works no more.
    """
    path = folder / "messages" / f"{time.monotonic_ns()}_{uuid4()}.{queue}.msg"
    draft = path.with_suffix(".draft")
    draft.write_text(dumps(payload), "utf-8")
    draft.rename(path)


setattr(Channel, "_put", put_whole)  # noqa: B010 - which type checkers do not let be replaced


class MarkingClient(PerkamoClient):
    """Leaves a mark while it delivers, by which whoever kills knows that a process holds no lock of the pool's.

    One that is killed while it holds the lock of the pool's queue takes the lock along. With a broker that has no event
    loop, as all have that need no server, Celery's pool then stands still.
    """

    def emit_event(self, event: Event | Mapping[str, object]) -> EventIngestResponse:
        """Deliver."""
        mark = mark_of(os.getpid())
        mark.touch()
        try:
            return super().emit_event(event)
        finally:
            mark.unlink()


def mark_of(process: int) -> Path:
    """Return the file that is there while a process delivers."""
    return folder / f"delivers-{process}"


celery.conf.perkamo_client = MarkingClient


@celery.task(base=PerkamoTask, bind=True, ignore_result=True)
def paid(self: PerkamoTask, order_id: str) -> None:
    """Send the event of an order, under an id that is the task's own."""
    self.perkamo.emit("customer_123", "purchase.completed", {"order": order_id}, transaction_id=self.transaction_id)


def create_app() -> Flask:
    """Make the part that the shop's customers see."""
    for name in ("messages", "control"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    celery.set_default()
    app = flask_shop.create_app()

    @app.post("/orders/<order_id>/paid-by-worker")
    def paid_by_worker(order_id: str) -> Response:
        deliver.delay(orders.save(order_id, int(request.args["amount"])).to_bytes())
        return jsonify(accepted=True)

    return app
