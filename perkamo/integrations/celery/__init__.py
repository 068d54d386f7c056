"""Celery: a base class for tasks that send, and a task that delivers an event.

    deliver.delay(Event("customer_123", "purchase.completed", "order_1092").to_bytes())

Needs the extra: ``pip install "perkamo[celery]"``.
"""

from importlib.util import find_spec

if find_spec("celery") is None:
    raise ModuleNotFoundError('perkamo.integrations.celery needs Celery: pip install "perkamo[celery]"', name="celery")

from perkamo.integrations.celery.task import PerkamoTask, deliver

__all__ = ["PerkamoTask", "deliver"]
