"""The routes from which a browser gets its tokens, as the official Symfony bundle has them."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoError
from perkamo.integrations.browser import (
    CONFIG_PATH,
    DEFAULT_BUNDLE_VERSION,
    DEFAULT_PREFIX,
    DEFAULT_STREAM_TTL_SECONDS,
    DEFAULT_TTL_SECONDS,
    STREAM_TOKEN_PATH,
    TOKEN_PATH,
    BrowserSdk,
    Purpose,
    check_prefix,
    checked_user_id,
    script_tags,
)
from perkamo.integrations.fastapi.answers import Problem, respond, respond_to_error
from perkamo.integrations.fastapi.client import PerkamoDep

_CONFIG_ROUTE: Final = "perkamo_browser_config"


class IssuedToken(BaseModel):
    """A short-lived token for one customer's browser."""

    token: str = Field(repr=False)
    token_type: str
    expires_at: datetime
    expires_in: int = Field(description="Seconds from now.")


class BrowserConfig(BaseModel):
    """What the browser SDK needs to know; none of it is secret."""

    base_url: str | None = Field(default=None, alias="baseUrl")
    browser_bundle_version: str = Field(alias="browserBundleVersion")
    browser_bundle_path: str = Field(alias="browserBundlePath")
    token_endpoint: str = Field(alias="tokenEndpoint")
    stream_token_endpoint: str = Field(alias="streamTokenEndpoint")


class BrowserTokenRouter(APIRouter):
    """The routes, and the script tags for the pages that use them; see ``browser_token_router``."""

    def __init__(self, sdk: BrowserSdk, base_url: str | None) -> None:
        """Begin without routes."""
        super().__init__()
        self._sdk = sdk
        self._base_url = base_url

    def script_tags(self, request: Request, client: AsyncPerkamoClient, *, nonce: str | None = None) -> str:
        """Return the HTML that loads the browser SDK and sets it up, for a page's head.

        In the page, ``Perkamo.createClient()`` makes a client of ``@perkamo/browser`` that takes its tokens from these
        routes. In a template, the text is safe as it is.

        Args:
            request: The request for the page, in the application that the router is included in.
            client: The application's client, which knows where the API is.
            nonce: The nonce of the page's Content-Security-Policy, for both scripts.
        """
        return script_tags(self.config(client, request.url_for(_CONFIG_ROUTE).path), nonce)

    def config(self, client: AsyncPerkamoClient, path: str) -> dict[str, str]:
        """Return the configuration, as it is found at this path."""
        return self._sdk.config(self._base_url or client.base_url, path.removesuffix(CONFIG_PATH))


def browser_token_router(
    *,
    browser_key: str,
    get_user_id: Callable[..., str | Awaitable[str | None] | None],
    prefix: str = DEFAULT_PREFIX,
    ttl_seconds: int | None = DEFAULT_TTL_SECONDS,
    stream_ttl_seconds: int | None = DEFAULT_STREAM_TTL_SECONDS,
    base_url: str | None = None,
    bundle_version: str = DEFAULT_BUNDLE_VERSION,
    bundle_path: str | None = None,
) -> BrowserTokenRouter:
    """Return a router with ``POST …/token``, ``POST …/stream-token`` and ``GET …/browser/config``.

    The paths, shapes and defaults are those of the official Symfony bundle (published). Answers with a token are never
    stored; nobody who is logged in is 401; Perkamo being out of reach is 503.

    Args:
        browser_key: The Space's public browser key, ``pk_…``.
        get_user_id: A dependency of the application's own that says who is logged in, None for nobody. It must take
            the id from the session or a checked token, never from what the browser asks for. A number is refused with
            ``PerkamoConfigurationError``: it may be written in more than one way.
        prefix: Where the routes are.
        ttl_seconds: For how long a token is good, 1 to 1800; the service's own default when None.
        stream_ttl_seconds: The same for a stream token.
        base_url: The API's address for browsers, where it is not the client's own.
        bundle_version: The exact version of the npm package ``@perkamo/browser``.
        bundle_path: Where its script is; on jsDelivr when None.

    Raises:
        ValueError: The prefix does not begin with a slash, or ends with one.
        PerkamoConfigurationError: A value can't work.
    """
    check_prefix(prefix)
    sdk = BrowserSdk(browser_key, ttl_seconds, stream_ttl_seconds, bundle_version, bundle_path)
    private = APIRouter(
        prefix=prefix,
        tags=["perkamo"],
        responses={
            401: {"model": Problem, "description": "Nobody is logged in."},
            503: {"model": Problem, "description": "Perkamo can't be reached now; see Retry-After."},
        },
    )

    @private.post(TOKEN_PATH, response_model=IssuedToken, name="perkamo_browser_token")
    async def token(perkamo: PerkamoDep, user_id: Annotated[str | None, Depends(get_user_id)]) -> Response:
        """Get a token for the browser of whoever is logged in."""
        return await _issue(sdk, perkamo, user_id, "browser")

    @private.post(STREAM_TOKEN_PATH, response_model=IssuedToken, name="perkamo_browser_stream_token")
    async def stream_token(perkamo: PerkamoDep, user_id: Annotated[str | None, Depends(get_user_id)]) -> Response:
        """Get a token for the customer stream of whoever is logged in."""
        return await _issue(sdk, perkamo, user_id, "stream")

    public = APIRouter(prefix=prefix, tags=["perkamo"])

    @public.get(CONFIG_PATH, response_model=BrowserConfig, response_model_exclude_none=True, name=_CONFIG_ROUTE)
    async def browser_config(request: Request, perkamo: PerkamoDep) -> dict[str, str]:
        """Tell the browser SDK where the routes are."""
        return both.config(perkamo, request.url.path)

    both = BrowserTokenRouter(sdk, base_url)
    both.include_router(private)
    both.include_router(public)
    return both


async def _issue(sdk: BrowserSdk, client: AsyncPerkamoClient, user_id: object, purpose: Purpose) -> Response:
    user = checked_user_id(user_id)
    try:
        return respond(await sdk.aissue(client, user, purpose))
    except PerkamoError as error:
        return respond_to_error(error)
