"""client: bad input raises before anything is sent, judged by the log of a real service."""

from collections.abc import Awaitable, Callable

import pytest

from perkamo import AsyncPerkamoClient, PerkamoValidationError
from perkamo.sandbox import Sandbox
from tests.tables.refused import ROWS, Row

pytestmark = pytest.mark.anyio


def test_the_table_is_long_enough_to_mean_something() -> None:
    """At least 150 rows, each named once; catches a table that was emptied."""
    assert len(ROWS) >= 150
    assert len({row[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
async def test_bad_input_is_refused_and_nothing_is_sent(row: Row, client: AsyncPerkamoClient, sandbox: Sandbox) -> None:
    """The typed error names the path, and the service saw no request; catches a check that comes after sending."""
    _, method, args, kwargs, path = row
    call: Callable[..., Awaitable[object]] = getattr(client, method)

    async with client:
        with pytest.raises(PerkamoValidationError) as caught:
            await call(*args, **kwargs)

    assert sandbox.requests == ()
    assert caught.value.path == path
    assert caught.value.field == path.split(".")[0].split("[")[0]
    assert "Nothing was sent." in str(caught.value)
    assert caught.value.outcome == "not_sent"
    assert caught.value.__context__ is None or caught.value.__suppress_context__
