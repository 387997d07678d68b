"""Rules that drop an instruction by its wording alone (Self-Instruct, arXiv 2212.10560, §2.2 and authors' code)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import punctuation
from typing import ClassVar

from kdaug.gate import Gate, Prepared
from kdaug.record import Drop

# Authors' code: words for what a text model cannot see, make or do.
BLACKLIST = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
    *("draw", "plot", "go to"),
)


@dataclass(frozen=True)
class InstructionFilters(Gate):
    """Drops instructions too short or long, with black-listed words, or with an odd beginning.

    Words are what white space separates: for a script without spaces set `min_words=1`, for one that is not Latin
    `ascii_start=False`. The rules look at the instruction without its input.
    """

    min_words: int = 4  # authors' code: 3 words are too few
    max_words: int = 150  # authors' code
    blacklist: tuple[str, ...] = BLACKLIST
    programs: bool = (
        False  # authors' code drops "Write a program …": whether to use what such prompts lead to is unclear
    )
    ascii_start: bool = True  # authors' code: English only

    name: ClassVar[str] = "instructions"

    def decide(self, prepared: Prepared) -> Drop | None:
        text = prepared.record.instruction.strip()
        words = len(text.split())
        if not text:
            return Drop("instructions:empty")
        if words < self.min_words:
            return Drop("instructions:too_short", {"words": words, "min_words": self.min_words})
        if words > self.max_words:
            return Drop("instructions:too_long", {"words": words, "max_words": self.max_words})
        if word := _blacklisted(text, self.blacklist):
            return Drop("instructions:blacklist", {"word": word})
        if not self.programs and re.match(r"write a program\b", text, re.IGNORECASE):
            return Drop("instructions:program")
        if text[0] in punctuation:
            return Drop("instructions:leading_punctuation", {"character": text[0]})
        if self.ascii_start and not text[0].isascii():
            return Drop("instructions:leading_non_ascii", {"character": text[0]})
        return None


def _blacklisted(text: str, words: tuple[str, ...]) -> str | None:
    """The first of `words` in the text: whole words (not "mapping" for "map"), in any case."""
    if not words:
        return None
    found = re.search(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", text, re.IGNORECASE)
    return found[0] if found else None
