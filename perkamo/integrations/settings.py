"""How an application is set up: its framework's settings first, then the environment. Without any framework."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

from attrs import field, frozen

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoConfigurationError
from perkamo.integrations.browser import (
    DEFAULT_BUNDLE_VERSION,
    DEFAULT_STREAM_TTL_SECONDS,
    DEFAULT_TTL_SECONDS,
    BrowserSdk,
)
from perkamo.integrations.webhooks import WEBHOOK_HEADER, Secret
from perkamo.outbox.sync_outbox import SyncOutbox
from perkamo.request.credentials import Key, wrap_secret
from perkamo.request.retry import RetryPolicy
from perkamo.sync_client import PerkamoClient

_OF_ENVIRONMENT: Final = ("BROWSER_KEY", "OUTBOX", "SPACE", "WEBHOOK_SECRET")
"""What the environment may give, after ``PERKAMO_``. The client itself reads its key and its address there."""
_TEXT: Final = ("text", (str,))
_SECONDS: Final = ("a number of seconds", (float, int))
_TYPES: Final[Mapping[str, tuple[str, tuple[type[object], ...]]]] = {
    "SECRET_KEY": ("text or a function", (object,)),  # which the client checks, and never shows
    "BASE_URL": _TEXT,
    "BROWSER_KEY": _TEXT,
    "TIMEOUT": _SECONDS,
    "RETRY": ("a RetryPolicy", (RetryPolicy,)),
    "ALLOW_INSECURE_HTTP": ("True or False", (bool,)),
    "OUTBOX": ("a path", (str, Path)),
    "SPACE": _TEXT,
    "WEBHOOK_SECRET": _TEXT,
    "WEBHOOK_HEADER": _TEXT,
    "TOKEN_TTL": ("a whole number of seconds", (int,)),
    "STREAM_TOKEN_TTL": ("a whole number of seconds", (int,)),
    "BUNDLE_VERSION": _TEXT,
    "BUNDLE_PATH": _TEXT,
}
_MAY_BE_NONE: Final = ("TIMEOUT", "TOKEN_TTL", "STREAM_TOKEN_TTL")
"""Where None means something else than that nothing is said."""


@frozen
class Settings:
    """What an application says about Perkamo; each name in capitals is that of a setting.

    Attributes:
        secret_key: The server key or what supplies it; None leaves it to the client, which asks the environment.
        base_url: Where the API is; None leaves it to the client.
        browser_key: The public browser key, or None.
        timeout: Seconds for a whole call.
        retry: How a call is tried.
        allow_insecure_http: Let plain http go to other hosts than loopback.
        outbox: The directory of the outbox, or None.
        space: The name of the outbox's Space, or None.
        webhook_secret: What a delivery has to bring, or None where none is set.
        webhook_header: The header in which it brings it.
        token_ttl: Seconds for which a browser token is good; None leaves it to the service.
        stream_token_ttl: The same for a stream token.
        bundle_version: The version of the browser SDK.
        bundle_path: Where its script is; on jsDelivr when None.
    """

    secret_key: Key | None = None
    base_url: str | None = None
    browser_key: str | None = None
    timeout: float | None = 30.0
    retry: RetryPolicy = field(factory=RetryPolicy)
    allow_insecure_http: bool = False
    outbox: str | Path | None = None
    space: str | None = None
    webhook_secret: Secret | None = None
    webhook_header: str = WEBHOOK_HEADER
    token_ttl: int | None = DEFAULT_TTL_SECONDS
    stream_token_ttl: int | None = DEFAULT_STREAM_TTL_SECONDS
    bundle_version: str = DEFAULT_BUNDLE_VERSION
    bundle_path: str | None = None

    def make_client(self) -> PerkamoClient:
        """Make a client.

        Raises:
            PerkamoConfigurationError: A setting can't work.
        """
        return PerkamoClient(
            cast("str | None", self.secret_key),  # a Key stands for the text that it hides
            base_url=self.base_url,
            timeout=self.timeout,
            retry=self.retry,
            allow_insecure_http=self.allow_insecure_http,
        )

    def make_async_client(self) -> AsyncPerkamoClient:
        """Make an asynchronous client.

        Raises:
            PerkamoConfigurationError: A setting can't work.
        """
        return AsyncPerkamoClient(
            cast("str | None", self.secret_key),
            base_url=self.base_url,
            timeout=self.timeout,
            retry=self.retry,
            allow_insecure_http=self.allow_insecure_http,
        )

    def make_outbox(self) -> SyncOutbox:
        """Open the outbox.

        Raises:
            PerkamoConfigurationError: There is no directory for it.
            PerkamoOutboxStorageError: The directory can't keep a promise.
        """
        if self.outbox is None:
            raise PerkamoConfigurationError(
                "There is no directory for the outbox: set PERKAMO_OUTBOX, or OUTBOX in the application's settings, to "
                "a directory on a local disk that outlives the process. Nothing was kept."
            )
        return SyncOutbox(self.outbox, space=self.space)

    def browser_sdk(self) -> BrowserSdk:
        """Return how the browser SDK is served.

        Raises:
            PerkamoConfigurationError: There is no browser key, or a value can't work.
        """
        if not self.browser_key:
            raise PerkamoConfigurationError(
                "There is no browser key: set PERKAMO_BROWSER_KEY, or BROWSER_KEY in the application's settings, to "
                "the public key, pk_…. Nothing was sent."
            )
        return BrowserSdk(
            self.browser_key, self.token_ttl, self.stream_token_ttl, self.bundle_version, self.bundle_path
        )


def read_settings(given: Mapping[str, object], shown: str) -> Settings:
    """Read what an application says; the environment decides about what it leaves out.

    Args:
        given: The settings by their names in capitals, such as ``SECRET_KEY``.
        shown: How the application writes a setting, such as ``PERKAMO["{}"]``, for errors.

    Raises:
        PerkamoConfigurationError: A name is unknown or a value is of the wrong type. No value is shown.
    """
    values, problem = _read(given)
    del given  # it may hold secrets, and the frame of the error below may be reported
    if problem is not None:
        name, reason = problem
        raise PerkamoConfigurationError(f"{shown.format(name)} {reason}.")
    return Settings(**values)  # type: ignore[arg-type]  # checked by name and type


def _read(given: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, str] | None]:
    """Return the values by attribute, or else what is wrong: a setting and the reason."""
    values: dict[str, object] = {
        name: os.environ[f"PERKAMO_{name}"] for name in _OF_ENVIRONMENT if os.environ.get(f"PERKAMO_{name}")
    }
    for name, value in given.items():
        if name not in _TYPES:
            return {}, (name, f"is not a setting; there are {', '.join(_TYPES)}")
        if value is not None or name in _MAY_BE_NONE:
            values[name] = value
    for name, value in values.items():
        words, kinds = _TYPES[name]
        if value is not None and not _fits(value, kinds):
            return {}, (name, f"must be {words}, not {type(value).__name__}")
    if values.get("WEBHOOK_SECRET") == "":
        return {}, ("WEBHOOK_SECRET", "is empty, which everybody would guess: set a long random one")
    for name, kind in (("SECRET_KEY", Key), ("WEBHOOK_SECRET", Secret)):
        if name in values:
            values[name] = wrap_secret(values[name], kind)
    return {name.lower(): value for name, value in values.items()}, None


def _fits(value: object, kinds: tuple[type[object], ...]) -> bool:
    is_bool_for_number = isinstance(value, bool) and int in kinds
    return isinstance(value, kinds) and not is_bool_for_number
