"""The token that opens a customer's stream, or its supplier."""

from collections.abc import Awaitable, Callable, Generator
from typing import TypeAlias

import httpx

from perkamo.encoding.ids import refusal
from perkamo.errors import PerkamoConfigurationError, PerkamoError
from perkamo.models import BrowserToken
from perkamo.request.credentials import SERVER_KEY_PREFIX, call_supplier


class TokenSource:
    """A stream token or its supplier. Neither its repr nor a pickle shows the token."""

    __slots__ = ("_auth", "_problem", "_supplier")

    def __init__(self, given: object) -> None:
        self._supplier = given if callable(given) else None
        self._problem = None if callable(given) else _problem(given)
        self._auth = Bearer("" if callable(given) or self._problem else given)

    @property
    def renewable(self) -> bool:
        """Whether a fresh token can be asked for."""
        return self._supplier is not None

    def check(self) -> None:
        """Check the token.

        Raises:
            PerkamoValidationError: It is neither a token nor a function.
        """
        if self._problem is not None:
            raise refusal("stream_token", self._problem)

    def __repr__(self) -> str:
        return "<TokenSource ***>"

    def __reduce__(self) -> str:
        raise TypeError("a stream token cannot be pickled; subscribe again where it is needed")

    async def auth(self) -> "Bearer":
        """Get the token, and return an ``httpx.Auth`` that adds it to a request.

        Raises:
            PerkamoError: The supplier raised it.
            PerkamoConfigurationError: The supplier raised another error, or returned no valid token.
        """
        if self._supplier is None:
            return self._auth
        try:
            given = await call_supplier(self._supplier)
        except PerkamoError:
            raise
        except Exception as error:
            raise PerkamoConfigurationError(f"The stream_token function raised {type(error).__name__}.") from error
        problem = _problem(given)
        if problem is None:
            return Bearer(given)
        del given
        raise PerkamoConfigurationError(f"The result of the stream_token function {problem}.")


StreamToken: TypeAlias = (
    str | BrowserToken | Callable[[], str | BrowserToken] | Callable[[], Awaitable[str | BrowserToken]] | TokenSource
)
"""A stream token as text or as ``create_stream_token`` returns it, or a function, sync or async, that returns one."""


class Bearer(httpx.Auth):
    """Adds the token just before sending, from an object that does not show it.

    Attributes:
        token: The token, which must be kept out of texts.
    """

    __slots__ = ("token",)

    def __init__(self, token: object) -> None:
        self.token: str = str(token.token if isinstance(token, BrowserToken) else token)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the token."""
        request.headers["Authorization"] = f"Bearer {self.token}"
        yield request


def _problem(token: object) -> str | None:
    """Return what is wrong with a token, without showing it."""
    text = token.token if isinstance(token, BrowserToken) else token
    if not isinstance(text, str):
        return "is neither text nor a BrowserToken"
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        return "is not a valid token: tokens are printable ASCII without spaces"
    if text.startswith(SERVER_KEY_PREFIX):
        return "is a server key, which must never go to a browser-safe route; use create_stream_token"
    return None
