"""The facts that a user types: ``key=value`` words, or one JSON object."""

import re
from argparse import Action, ArgumentError, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import Final

from perkamo.cli.running import RefusedError
from perkamo.encoding.encode import JSONValue
from perkamo.encoding.parse import parse

_HELP: Final = (
    "facts, anywhere among the options. A value that is a JSON number, true, false, null, object, array or quoted text"
    " counts as that, everything else as text: amount=12900 is a number, amount='\"12900\"' is text"
)


_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
"""What JSON takes for a number."""


def add_facts(parser: ArgumentParser, option: str, what: str) -> None:
    """Add the two ways to give facts: ``KEY=VALUE`` words, and an option that takes one JSON object.

    Args:
        parser: The command's parser.
        option: The option, such as ``--context``.
        what: What the facts are, in the plural.
    """
    parser.add_argument("facts", metavar="KEY=VALUE", nargs="*", default=(), action=_Facts, help=_HELP)
    parser.add_argument(option, metavar="JSON", type=json_object, help=f"{what} as one JSON object")


class _Facts(Action):
    """Reads facts, and finds the EVENT among them."""

    def __call__(
        self,
        parser: ArgumentParser,  # noqa: ARG002 - argparse gives it
        namespace: Namespace,
        values: str | Sequence[str] | None,
        option_string: str | None = None,  # noqa: ARG002 - as above
    ) -> None:
        words = list(values or ())
        event: str | None = getattr(namespace, "event", None)
        if event is not None and "=" in event:
            # With a dot, it is an event's key. Without one, it is a fact without a value: never send it as an event.
            keys = [word for word in words if "=" not in word and "." in word]
            if len(keys) != 1:
                raise ArgumentError(None, "EVENT must come before the facts: USER EVENT KEY=VALUE")
            namespace.event = keys[0]
            words[words.index(keys[0])] = event
        try:
            namespace.facts = [pair(word) for word in words]
        except ArgumentTypeError as error:
            raise ArgumentError(self, str(error)) from None


def pair(word: str) -> tuple[str, JSONValue]:
    """Read one ``key=value``.

    Raises:
        ArgumentTypeError: The text is not valid.
    """
    key, sign, text = word.partition("=")
    if not key or not sign:
        raise ArgumentTypeError("a fact is written key=value")
    try:
        return key, parse(text.encode())
    except ValueError as error:
        if _NUMBER.fullmatch(text):
            raise ArgumentTypeError(
                "the value is a number that is too large; write it in quotes to send it as text"
            ) from None
        if text[:1] in ("{", "[", '"'):
            raise ArgumentTypeError(
                f"the value begins as JSON does but {_reason(error)}; write such text in quotes"
            ) from None
        return key, text


def json_object(text: str) -> dict[str, JSONValue]:
    """Read one JSON object.

    Raises:
        ArgumentTypeError: The text is not valid.
    """
    try:
        value = parse(text.encode())
    except ValueError as error:
        raise ArgumentTypeError(f"the text {_reason(error)}") from None
    if not isinstance(value, dict):
        raise ArgumentTypeError("the text is not a JSON object")
    return value


def merge(pairs: Sequence[tuple[str, JSONValue]], whole: dict[str, JSONValue] | None) -> dict[str, JSONValue]:
    """Return all facts as one object.

    Raises:
        RefusedError: A key was given twice.
    """
    merged = dict(whole or {})
    for key, value in pairs:
        if key in merged:
            raise RefusedError("one key was given twice. Nothing was sent.")
        merged[key] = value
    return merged


def _reason(error: ValueError) -> str:
    return "is not UTF-8" if isinstance(error, UnicodeEncodeError) else str(error)
