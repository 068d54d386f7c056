"""The client of an application: opened and closed with it, handed to its handlers."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Annotated, Final, TypeAlias

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoConfigurationError

State: TypeAlias = Mapping[str, object]
Lifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[State | None]]

_KEY: Final = "perkamo_client"


def perkamo_lifespan(
    make_client: Callable[[], AsyncPerkamoClient] = AsyncPerkamoClient, *, lifespan: Lifespan | None = None
) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    """Return a lifespan that has one client for the process: opened before the application starts, closed after it.

    Args:
        make_client: Makes the client; by default out of the environment. For options, give a function, such as
            ``lambda: AsyncPerkamoClient(timeout=5)``.
        lifespan: The application's own lifespan, which runs while the client is open; its state is kept.

    Returns:
        What ``FastAPI(lifespan=…)`` takes. In a lifespan of your own it is a context manager, too, whose state has to
        be yielded on: ``async with perkamo_lifespan()(app) as state: yield {**state, …}``.
    """

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncGenerator[State]:
        inner: AbstractAsyncContextManager[State | None] = nullcontext() if lifespan is None else lifespan(app)
        async with make_client() as client, inner as state:
            yield {**(state or {}), _KEY: client}

    return opened


async def get_perkamo(connection: HTTPConnection) -> AsyncPerkamoClient:
    """Return the application's client: the dependency behind ``PerkamoDep``.

    Tests put another in its place: ``app.dependency_overrides[get_perkamo] = lambda: client``.

    Raises:
        PerkamoConfigurationError: The application has no ``perkamo_lifespan``, or it was not started.
    """
    client: object = getattr(connection.state, _KEY, None)
    if not isinstance(client, AsyncPerkamoClient):
        raise PerkamoConfigurationError(
            "The application has no Perkamo client. Write FastAPI(lifespan=perkamo_lifespan()), and in tests start it, "
            "such as with 'with TestClient(app)', or override get_perkamo."
        )
    return client


PerkamoDep: TypeAlias = Annotated[AsyncPerkamoClient, Depends(get_perkamo)]
"""The type of a handler's parameter that is to be the application's client."""
