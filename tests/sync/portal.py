"""What the tests of the portal share."""

import anyio
import anyio.from_thread
import anyio.to_thread


async def echo(value: object, *, after: float = 0) -> object:
    """Return the value, a little later."""
    await anyio.sleep(after)
    return value


async def fail(error: BaseException) -> None:
    """Raise."""
    raise error
