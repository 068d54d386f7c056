"""What the tests of FastAPI share."""

from collections.abc import Callable

from fastapi import FastAPI

from perkamo import AsyncPerkamoClient
from perkamo.integrations.fastapi import browser_token_router, perkamo_lifespan
from perkamo.sandbox import Sandbox
from tests.integrations.shop import logged_in


def tokens_of(sandbox: Sandbox, client: Callable[[], AsyncPerkamoClient], **options: str) -> FastAPI:
    """An application with the token routes."""
    app = FastAPI(lifespan=perkamo_lifespan(client))
    app.include_router(
        browser_token_router(browser_key=sandbox.browser_key, get_user_id=logged_in, **options)  # type: ignore[arg-type]  # text options only
    )
    return app
