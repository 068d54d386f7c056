"""The options of a client: checked when it is built, and changed in its views."""

import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeAlias, TypeVar, cast

import httpx

from perkamo.errors import PerkamoConfigurationError
from perkamo.hooks import Hook, Hooks
from perkamo.request.attempt import own_client

T = TypeVar("T")
_Attributes: TypeAlias = dict[str, object] | None

MAX_TIMEOUT: Final = 86_400


def check_type(value: object, kind: type[T], name: str) -> T:
    """Return an option's value as it is.

    Raises:
        PerkamoConfigurationError: The value is of another type.
    """
    if isinstance(value, kind):
        return value
    raise PerkamoConfigurationError(f"{name} must be of type {kind.__name__}, not {type(value).__name__}.")


def check_timeout(timeout: object) -> float | None:
    """Return a call's timeout in seconds, None for no limit.

    Raises:
        PerkamoConfigurationError: It is not a positive number of seconds.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MAX_TIMEOUT:
        raise PerkamoConfigurationError("timeout must be a number of seconds above 0 and up to 86,400, or None.")
    return float(timeout)


def check_hooks(hooks: Iterable[Hook]) -> Hooks:
    """Return the hooks of a client.

    Raises:
        PerkamoConfigurationError: They are not hooks.
    """
    try:
        return Hooks(hooks)
    except TypeError as error:
        raise PerkamoConfigurationError(f"{error}.") from None


def client_maker(
    http_client: httpx.AsyncClient | None,
    base_url: str,
    *,
    proxy: str | None,
    ssl_context: ssl.SSLContext | None,
    max_connections: int | None,
) -> Callable[[], httpx.AsyncClient]:
    """Return a function that makes the HTTP client to send with, or returns the caller's.

    Args:
        http_client: The caller's; None for one of our own.
        base_url: The URL of the service.
        proxy: As for ``own_client``, as are the others.
        ssl_context: As for ``Transport``.
        max_connections: As for ``Transport``; None for its default.

    Raises:
        PerkamoConfigurationError: It is not an HTTP client, or has options besides that concern our own alone.
    """
    if http_client is None:
        return partial(own_client, base_url, proxy=proxy, ssl_context=ssl_context, max_connections=max_connections)
    if not isinstance(cast("object", http_client), httpx.AsyncClient):
        kind = f"{type(http_client).__module__}.{type(http_client).__qualname__}".removeprefix("builtins.")
        raise PerkamoConfigurationError(f"http_client must be an httpx.AsyncClient, also for sync code, not {kind}.")
    if (proxy, ssl_context, max_connections) != (None, None, None):
        raise PerkamoConfigurationError(
            "Pass either http_client, or proxy, ssl_context and max_connections: your own client has its own."
        )
    return lambda: http_client


def copied(original: T, **changes: object) -> T:
    """Return a copy that shares all attributes, those in slots of a subclass too, except for some.

    Args:
        original: What to copy.
        changes: The attributes that differ.
    """
    copy = object.__new__(type(original))
    state = cast("_Attributes | tuple[_Attributes, _Attributes] | None", object.__getstate__(original))
    for attributes in (*(state if isinstance(state, tuple) else (state,)), changes):
        for name, value in (attributes or {}).items():
            object.__setattr__(copy, name, value)  # an attrs class may be frozen
    return copy
