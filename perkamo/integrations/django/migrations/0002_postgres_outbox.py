"""In PostgreSQL, the tables of the outbox. They are not removed again: events may wait in them."""

from collections.abc import Sequence
from typing import ClassVar

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation

from perkamo.outbox.postgres.schema import outbox_schema


def make_tables(_apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    """Make the tables, unless somebody has run their statements by hand."""
    if editor.connection.vendor != "postgresql":
        return
    with editor.connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('perkamo.version') IS NOT NULL")
        [exists] = cursor.fetchone() or [False]
    if not exists:
        for statement in outbox_schema():
            editor.execute(statement, params=None)


class Migration(migrations.Migration):
    """Tables in a schema of their own, ``perkamo``."""

    dependencies: ClassVar[Sequence[tuple[str, str]]] = [("perkamo", "0001_initial")]

    operations: ClassVar[Sequence[Operation]] = [migrations.RunPython(make_tables)]
