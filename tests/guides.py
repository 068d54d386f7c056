"""The guides: their texts, blocks, sections and tables."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

ROOT: Final = Path(__file__).parent.parent
GUIDES: Final = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in sorted([ROOT / "README.md", ROOT / "benchmarks/README.md", *(ROOT / "perkamo").rglob("README.md")])
}
README: Final = GUIDES["README.md"]


@frozen
class Block:
    """One fenced block: the guide, its number there, the words after the fence, and the text."""

    guide: str
    number: int
    words: tuple[str, ...]
    text: str

    @property
    def file(self) -> str | None:
        """The name under which the guide's other blocks find it."""
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)

    def __str__(self) -> str:
        """Its name in a test's id."""
        return f"{self.guide.removesuffix('/README.md')} {self.number}"


def find_blocks() -> Iterator[Block]:
    """Yield every fenced block of every guide."""
    for guide, text in GUIDES.items():
        found = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", text, flags=re.MULTILINE)
        for number, (words, block) in enumerate(found, 1):
            yield Block(guide, number, tuple(words.split()), block)


BLOCKS: Final = tuple(find_blocks())
