"""Ids that are the same in each run, and the browser tokens that were issued."""

from hashlib import blake2b
from typing import Final, Literal, TypeAlias

from attrs import field, frozen

MAX_TTL_SECONDS: Final = 1800
BROWSER_TTL_SECONDS: Final = 600
"""Assumed: the default lifetime of a browser token; the published example has 600."""
STREAM_TTL_SECONDS: Final = 120
MAX_TOKENS: Final = 10_000

Purpose: TypeAlias = Literal["browser", "stream"]


class IdMaker:
    """Makes ids from a seed and a counter, so that the same script always gets the same ids.

    Args:
        seed: Any number; another seed gives other ids.
    """

    def __init__(self, seed: int) -> None:
        self._key = str(seed).encode()
        self._count = 0

    def fixed(self, prefix: str) -> str:
        """Return an id that depends on the seed and the prefix alone."""
        return prefix + blake2b(prefix.encode(), key=self._key, digest_size=16).hexdigest()

    def make(self, prefix: str) -> str:
        """Return the next id with this prefix."""
        self._count += 1
        return prefix + blake2b(f"{prefix}{self._count}".encode(), key=self._key, digest_size=16).hexdigest()

    def reset(self) -> None:
        """Count from the beginning again."""
        self._count = 0


@frozen
class Token:
    """A browser token that was issued.

    Attributes:
        text: The bearer token itself.
        user_id: The customer that it is for.
        purpose: ``browser``, or ``stream`` for the customer stream.
        expires_at: Unix seconds of the sandbox's clock.
    """

    text: str = field(repr=False)
    user_id: str = field(repr=False)
    purpose: Purpose
    expires_at: float


class TokenError(ValueError):
    """A token that is not accepted; the message says why, without the token."""


class TokenBook:
    """Remembers tokens, at most the last 10,000."""

    def __init__(self) -> None:
        self._tokens: dict[str, Token] = {}

    def add(self, token: Token) -> None:
        """Remember a token."""
        if len(self._tokens) >= MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[token.text] = token

    def check(self, text: str, purpose: Purpose, now: float) -> Token:
        """Return the token with this text.

        Args:
            text: The bearer token.
            purpose: The purpose that it is used for.
            now: The time in Unix seconds.

        Raises:
            TokenError: The token is unknown, expired, or made for another purpose.
        """
        token = self._tokens.get(text)
        if token is None:
            raise TokenError("The token is unknown: this sandbox did not make it, or has been reset since")
        if now >= token.expires_at:
            raise TokenError("The token has expired")
        if token.purpose != purpose:
            raise TokenError(f"The token was made for the purpose {token.purpose!r}, not {purpose!r}")
        return token

    def reset(self) -> None:
        """Forget all tokens."""
        self._tokens.clear()
