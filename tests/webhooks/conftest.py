"""Fixtures."""

from pathlib import Path

import pytest

from perkamo.webhooks import DeliveryLog, MemoryDeliveryLog, SqliteDeliveryLog


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> DeliveryLog:
    """Each kind of log in turn."""
    return MemoryDeliveryLog() if request.param == "memory" else SqliteDeliveryLog(tmp_path / "deliveries.db")
