"""The findings about each fact of the table: confirmed, different, or unknown."""

from collections.abc import Awaitable, Callable, Mapping
from json import loads
from typing import Final, Literal, TypeAlias, cast

from attrs import frozen

from perkamo.cli.checking.caller import NoAnswerError
from perkamo.contract import FACTS, Fact
from perkamo.encoding.encode import JSONValue

Found: TypeAlias = Literal["confirmed", "differs", "could not tell"]

CONFIRMED: Final = "confirmed"
"""The answer to a question if the service does as the table says; None if that is unknown."""

_NEEDS_WRITE: Final = "needs --write"
_NOT_ASKED: Final = "no request shows it"
_ONLY_TOLD: Final = frozenset({"webhook.delivery", "webhook.schedule"})
"""Facts about what the service sends to others."""


@frozen
class Finding:
    """The finding about one fact.

    Attributes:
        fact: The fact.
        found: Whether the service does as it says.
        detail: How it differs, by the name of an alternative if there is one; or why it is unknown. No values.
    """

    fact: Fact
    found: Found
    detail: str = ""

    def json(self) -> dict[str, JSONValue]:
        """Return it as ``--json`` shows it."""
        fact = self.fact
        return {
            "name": fact.name,
            "known": fact.known,
            "behaviour": fact.behaviour,
            "found": self.found,
            "detail": self.detail,
        }


class Findings:
    """Collects findings: a difference outweighs a confirmation, and both outweigh an unknown answer."""

    def __init__(self, *, writes: bool) -> None:
        self._missing = _NOT_ASKED if writes else _NEEDS_WRITE
        self._found: dict[str, Finding] = {}
        self.problems: list[str] = []
        """Why questions had no answer."""

    def add(self, name: str, answer: str | None, why: str = "the answer does not show it") -> None:
        """Record the answer to a question.

        Args:
            name: The fact's name.
            answer: ``CONFIRMED``, how the service differs, or None if that is unknown.
            why: Why it is unknown.
        """
        before = self._found.get(name)
        if before is not None and (before.found == "differs" or answer is None):
            return
        fact = FACTS[name]
        if answer is None:
            self._found[name] = Finding(fact, "could not tell", why)
        elif answer == CONFIRMED:
            self._found[name] = Finding(fact, "confirmed")
        else:
            self._found[name] = Finding(fact, "differs", answer)

    def expect(self, name: str, answer: object, otherwise: str) -> None:
        """Record whether a fact holds."""
        self.add(name, CONFIRMED if answer else otherwise)

    async def attempt(self, step: Callable[[], Awaitable[object]]) -> None:
        """Ask a few questions. If one gets no answer, the others are asked all the same."""
        try:
            await step()
        except NoAnswerError as error:
            self.problems.append(str(error))

    def confirms(self, name: str) -> bool:
        """Return whether a fact was confirmed."""
        found = self._found.get(name)
        return found is not None and found.found == "confirmed"

    def differs(self, name: str) -> bool:
        """Return whether the service was found to differ in something."""
        found = self._found.get(name)
        return found is not None and found.found == "differs"

    def all(self) -> list[Finding]:
        """Return a finding for each fact, in the order of the table."""
        return [self._found.get(name) or self._unknown(fact) for name, fact in FACTS.items()]

    def _unknown(self, fact: Fact) -> Finding:
        return Finding(fact, "could not tell", _NOT_ASKED if fact.name in _ONLY_TOLD else self._missing)


def saved_dialect(text: str | bytes) -> Mapping[str, str]:
    """Return the dialect for a sandbox, from a file of ``perkamo check --save``.

    Raises:
        ValueError: The file has another content.
    """
    document = cast("JSONValue", loads(text))
    dialect = document.get("dialect") if isinstance(document, dict) else None
    if not isinstance(dialect, dict):
        raise ValueError("it is not what 'perkamo check --save' writes")  # noqa: TRY004 - a file's content
    return {name: str(alternative) for name, alternative in dialect.items()}


def dialect_of(findings: list[Finding]) -> Mapping[str, str]:
    """Return the dialect with which a sandbox answers as the service did."""
    return {
        finding.fact.name: finding.detail
        for finding in findings
        if finding.found == "differs" and finding.detail in finding.fact.alternatives
    }
