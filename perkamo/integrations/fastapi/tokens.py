"""The routes from which a browser gets its tokens, as the official Symfony bundle has them."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Final, cast

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from perkamo.errors import PerkamoConfigurationError, PerkamoError
from perkamo.integrations.fastapi.answers import NO_STORE, Problem, answer
from perkamo.integrations.fastapi.client import PerkamoDep
from perkamo.models import BrowserToken

_CONFIG: Final = "/browser/config"


class IssuedToken(BaseModel):
    """A short-lived token for one customer's browser."""

    token: str = Field(repr=False)
    token_type: str
    expires_at: datetime
    expires_in: int = Field(description="Seconds from now.")


class BrowserConfig(BaseModel):
    """What the browser SDK needs to know; nothing of it is secret."""

    base_url: str | None = Field(default=None, serialization_alias="baseUrl")
    token_endpoint: str = Field(serialization_alias="tokenEndpoint")
    stream_token_endpoint: str = Field(serialization_alias="streamTokenEndpoint")


def browser_token_router(
    *,
    browser_key: str,
    get_user_id: Callable[..., str | Awaitable[str | None] | None],
    prefix: str = "/api/perkamo",
    ttl_seconds: int | None = None,
    stream_ttl_seconds: int | None = 120,
    base_url: str | None = None,
) -> APIRouter:
    """Return a router with ``POST …/token``, ``POST …/stream-token`` and ``GET …/browser/config``.

    The paths and shapes are those of the official Symfony bundle (published), without its script's version and path.
    Answers with a token are never stored; nobody who is logged in is 401; Perkamo being out of reach is 503.

    Args:
        browser_key: The Space's public browser key, ``pk_…``.
        get_user_id: A dependency of the application's own that says who is logged in, None for nobody. It must take
            the id from the session or a checked token, never from what the browser asks for. A number is refused with
            ``PerkamoConfigurationError``: it may be written in more than one way.
        prefix: Where the routes are.
        ttl_seconds: For how long a token is good, 1 to 1800; the service's own default when None.
        stream_ttl_seconds: The same for a stream token.
        base_url: The API's address for browsers, where it is not the hosted one (as with the sandbox).

    Raises:
        ValueError: The prefix does not begin with a slash, or ends with one.
    """
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise ValueError("prefix begins with a slash and does not end with one")
    router = APIRouter(
        prefix=prefix,
        tags=["perkamo"],
        responses={
            401: {"model": Problem, "description": "Nobody is logged in."},
            503: {"model": Problem, "description": "Perkamo can't be reached now; see Retry-After."},
        },
    )

    @router.post("/token", response_model=IssuedToken, name="perkamo_browser_token")
    async def token(perkamo: PerkamoDep, user_id: Annotated[str | None, Depends(get_user_id)]) -> Response:
        """Get a token for the browser of whoever is logged in."""
        return await _issued(
            user_id, lambda user: perkamo.create_browser_token(browser_key, user, ttl_seconds=ttl_seconds)
        )

    @router.post("/stream-token", response_model=IssuedToken, name="perkamo_browser_stream_token")
    async def stream_token(perkamo: PerkamoDep, user_id: Annotated[str | None, Depends(get_user_id)]) -> Response:
        """Get a token for the customer stream of whoever is logged in."""
        return await _issued(
            user_id, lambda user: perkamo.create_stream_token(browser_key, user, ttl_seconds=stream_ttl_seconds)
        )

    public = APIRouter(prefix=prefix, tags=["perkamo"])

    @public.get(_CONFIG, response_model_exclude_none=True, name="perkamo_browser_config")
    async def browser_config(request: Request) -> BrowserConfig:
        """Tell the browser SDK where the routes are."""
        here = request.url.path.removesuffix(_CONFIG)
        return BrowserConfig(
            base_url=base_url, token_endpoint=f"{here}/token", stream_token_endpoint=f"{here}/stream-token"
        )

    both = APIRouter()
    both.include_router(router)
    both.include_router(public)
    return both


async def _issued(user_id: str | None, create: Callable[[str], Awaitable[BrowserToken]]) -> Response:
    if user_id is not None and not isinstance(cast("object", user_id), str):
        raise PerkamoConfigurationError(
            f"get_user_id must return text or None, not {type(user_id).__name__}: convert the id as it is converted "
            "where events are sent. Nothing was sent."
        )
    if user_id is None or not user_id.strip():
        problem = Problem(detail="Nobody is logged in.")
        return JSONResponse(problem.model_dump(), 401, {"www-authenticate": "Bearer", **NO_STORE})
    try:
        made = await create(user_id)
    except PerkamoError as error:
        return answer(error)
    issued = IssuedToken(
        token=made.token, token_type=made.token_type, expires_at=made.expires_at, expires_in=made.expires_in
    )
    return JSONResponse(issued.model_dump(mode="json"), headers=NO_STORE)
