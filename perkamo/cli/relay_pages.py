"""A relay's pages for probes and scrapers: whether it delivers, and its figures."""

import json
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Final, Protocol

from perkamo.cli.duration import readable
from perkamo.cli.listening import Page, Pages
from perkamo.errors import PerkamoError
from perkamo.outbox.store import OutboxStats

HAS_PROMETHEUS: Final = find_spec("prometheus_client") is not None
MISSING: Final = "/metrics needs the extra prometheus: pip install 'perkamo[prometheus]'"


class _Figures(Protocol):
    def text(self, stats: OutboxStats) -> bytes: ...


class RelayPages:
    """The pages ``/healthz`` and ``/metrics`` of one relay."""

    def __init__(
        self,
        stats: Callable[[], Awaitable[OutboxStats]],
        trouble: Callable[[], PerkamoError | None],
        fail_if_older: float | None,
        figures: _Figures | None,
    ) -> None:
        """Prepare.

        Args:
            stats: Counts the outbox.
            trouble: Returns why delivery is paused, or None.
            fail_if_older: How many seconds an event may wait; None for any time.
            figures: Writes the figures for Prometheus; None if the extra is not installed.
        """
        self._stats = stats
        self._trouble = trouble
        self._fail_if_older = fail_if_older
        self._figures = figures

    @property
    def pages(self) -> Pages:
        """The pages by their paths."""
        return {"/healthz": self._health, "/metrics": self._metrics}

    async def _health(self) -> Page:
        try:
            stats = await self._stats()
        except PerkamoError as error:
            return _json(503, {"status": "unusable", "reason": str(error)})
        counts: dict[str, object] = {
            "waiting": stats.pending,
            "oldest_age": stats.oldest_age,
            "delivered": stats.delivered,
            "dead": stats.dead,
        }
        trouble, age = self._trouble(), stats.oldest_age or 0.0
        if trouble is not None:
            return _json(503, {"status": "paused", "reason": str(trouble), **counts})
        if self._fail_if_older is not None and age > self._fail_if_older:
            reason = f"The oldest event that waits was put {readable(age)} ago."
            return _json(503, {"status": "late", "reason": reason, **counts})
        return _json(200, {"status": "delivering" if stats.pending else "idle", **counts})

    async def _metrics(self) -> Page:
        if self._figures is None:
            return Page(501, "text/plain; charset=utf-8", f"{MISSING}\n".encode())
        try:
            stats = await self._stats()
        except PerkamoError as error:
            return Page(503, "text/plain; charset=utf-8", f"{error}\n".encode())
        return Page(200, "text/plain; version=0.0.4; charset=utf-8", self._figures.text(stats))


def _json(status: int, value: dict[str, object]) -> Page:
    return Page(status, "application/json", json.dumps(value, ensure_ascii=False).encode() + b"\n")
