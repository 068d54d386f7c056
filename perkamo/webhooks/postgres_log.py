"""A log of handled deliveries for several machines: a table in their PostgreSQL database."""

import secrets
from collections.abc import Mapping
from typing import Final

from perkamo.errors import PerkamoConfigurationError
from perkamo.postgres import DURABLE, ConnectionPool, Database, DatabaseFailure, Rows, hide_dsn, quoted_schema
from perkamo.webhooks.logs import HANDLED, NOT_HANDLED, NOT_RELEASED, Claim, PerkamoDeliveryLogError

_DAY: Final = 86_400.0
_CLAIM: Final = f"""{DURABLE}
INSERT INTO {{schema}}.webhook_deliveries AS d (id, token, until)
VALUES (%(id)s, %(token)s, statement_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (id) DO UPDATE SET token = excluded.token, until = excluded.until WHERE d.until <= statement_timestamp();
SELECT token FROM {{schema}}.webhook_deliveries WHERE id = %(id)s"""
_DONE: Final = f"""{DURABLE}
INSERT INTO {{schema}}.webhook_deliveries AS d (id, token, until)
VALUES (%(id)s, NULL, statement_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (id) DO UPDATE SET token = NULL, until = excluded.until;
DELETE FROM {{schema}}.webhook_deliveries WHERE id IN (
  SELECT id FROM {{schema}}.webhook_deliveries WHERE until <= statement_timestamp() LIMIT 100 FOR UPDATE SKIP LOCKED
)"""
"""It also deletes some old entries; no other step waits for that."""
_FAILED: Final = "DELETE FROM {schema}.webhook_deliveries WHERE id = %(id)s AND token = %(token)s"


class PostgresDeliveryLog:
    """A log in a table that ``perkamo.outbox_schema`` creates, for handlers on any number of machines.

    It contains delivery ids, and nothing else of a delivery. If a process dies, its claim ends with the lease. So a
    handler that takes longer than the lease may be run a second time. The database measures both times.

    Args:
        dsn_or_pool: ``postgresql://…``, or a ``psycopg_pool.ConnectionPool``. It needs the extra ``perkamo[postgres]``.
        schema: The schema of the table.
        lease: Seconds after which a claim that was neither completed nor released ends.
        keep: The least seconds for which a handled delivery is remembered.

    Raises:
        PerkamoConfigurationError: A time is not above 0, psycopg 3 is not installed, or the DSN can't be read.
    """

    def __init__(
        self,
        dsn_or_pool: str | ConnectionPool,
        *,
        schema: str = "perkamo",
        lease: float = 300.0,
        keep: float = 30 * _DAY,
    ) -> None:
        dsn_or_pool = hide_dsn(dsn_or_pool)
        if not (lease > 0 and keep > 0):
            raise PerkamoConfigurationError("lease and keep must be above 0 seconds.")
        self._database = Database(dsn_or_pool)
        self._schema = quoted_schema(schema).replace("%", "%%")
        self._lease, self._keep = lease, keep

    def claim(self, delivery_id: str) -> Claim:
        """Claim a delivery; if several claim it at once, one gets it.

        Raises:
            PerkamoDeliveryLogError: The table can't be used; nothing was claimed.
        """
        token = secrets.token_hex(8)
        parameters = {"id": delivery_id, "token": token, "seconds": self._lease}
        while not (rows := self._run(_CLAIM, parameters, NOT_HANDLED)[-1]):
            pass  # the other claim was released between the two statements
        [[holder]] = rows
        return Claim("mine", token) if holder == token else Claim("done" if holder is None else "busy")

    def done(self, delivery_id: str) -> None:
        """Remember that it was handled.

        Raises:
            PerkamoDeliveryLogError: The table can't be written; ``handled`` is true.
        """
        self._run(_DONE, {"id": delivery_id, "seconds": self._keep}, HANDLED)

    def failed(self, delivery_id: str, token: str) -> None:
        """Release the claim with this token, so that a repetition is handled.

        Raises:
            PerkamoDeliveryLogError: The table can't be written; the claim stays until its lease ends.
        """
        self._run(_FAILED, {"id": delivery_id, "token": token}, NOT_RELEASED)

    def close(self) -> None:
        """Close unused connections. This is needed only before the process ends."""
        self._database.close()

    def _run(self, script: str, parameters: Mapping[str, object], advice: str) -> list[Rows]:
        try:
            return self._database.run(script.replace("{schema}", self._schema), parameters)
        except DatabaseFailure as error:
            failure = error
        raise PerkamoDeliveryLogError(
            f"The log of deliveries can't be used: {failure.reason}. {advice}", handled=advice is HANDLED
        )
