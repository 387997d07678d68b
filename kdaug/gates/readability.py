"""How long and how hard to read a text is, by Flesch's formula."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from kdaug.errors import ConfigError, require
from kdaug.gate import Gate, Prepared
from kdaug.gates.languages import prose
from kdaug.gates.novelty import On, check_fields, compared
from kdaug.generator import Generate
from kdaug.record import Drop, Record
from kdaug.words import count_words

if TYPE_CHECKING:
    from pyphen import Pyphen

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_END = re.compile(r"[.!?…]+(?=\s|$)|\n\s*\n|\n(?=\s*(?:[-*•#]|\d+[.)]))")  # of a sentence, a paragraph, an item


class Formula(NamedTuple):
    """base - sentence x (words in a sentence) - syllable x (syllables in a word); `dictionary` is Pyphen's."""

    base: float
    sentence: float
    syllable: float
    dictionary: str


FORMULAS = {
    "en": Formula(206.835, 1.015, 84.6, "en_US"),  # Flesch 1948
    "de": Formula(180.0, 1.0, 58.5, "de_DE"),  # Amstad 1978
    "es": Formula(206.84, 1.02, 60.0, "es"),  # Fernández Huerta 1959
    "fr": Formula(207.0, 1.015, 73.6, "fr"),  # Kandel and Moles 1958
    "it": Formula(217.0, 1.3, 60.0, "it_IT"),  # Franchina and Vacca 1986
    "nl": Formula(206.835, 0.93, 77.0, "nl_NL"),  # Douma 1960
    "ru": Formula(206.835, 1.3, 60.1, "ru_RU"),  # Oborneva 2006
}


@dataclass(frozen=True)
class Readability(Gate):
    """Scores a text's length, `scores["words"]`, and how easy it is to read, `scores["reading_ease"]`.

    Reading ease is Flesch's formula (J. Appl. Psychol. 32, 1948, p. 221) with the constants of `language`: about 0 to
    100, higher is easier, and 30 is an academic text. Sentences end with a mark or an item of a list, syllables are
    where Pyphen's dictionary may hyphenate (it sees a few too few); fenced code is left out. A text without a word has
    no ease. Drops what is below `min` or above `max`: `readability:hard`, `readability:easy` (None: nothing).
    """

    min: float | None = None
    max: float | None = None
    on: On = "completion"
    language: str = "en"

    name: ClassVar[str] = "readability"

    def __post_init__(self) -> None:
        check_fields(self.name, 0, self.on)
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ConfigError(f"readability: min {self.min:g} is more than max {self.max:g}")
        if self.language not in FORMULAS:
            raise ConfigError(f"readability: language must be one of {', '.join(FORMULAS)}, not {self.language!r}")
        require("pyphen", "filters", "the readability gate")

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        text = compared(record, self.on)
        ease = reading_ease(text, self.language)
        scores = {"words": float(count_words(text))} | ({} if ease is None else {"reading_ease": ease})
        return Prepared(record.scored(**scores), ease)

    def decide(self, prepared: Prepared) -> Drop | None:
        ease: float | None = prepared.evidence
        if ease is not None and self.min is not None and ease < self.min:
            return Drop("readability:hard", {"reading_ease": ease, "min": self.min})
        if ease is not None and self.max is not None and ease > self.max:
            return Drop("readability:easy", {"reading_ease": ease, "max": self.max})
        return None


def reading_ease(text: str, language: str = "en") -> float | None:
    """Flesch's reading ease; None for a text without a word."""
    formula = FORMULAS[language]
    parts = [part for part in _END.split(prose(text)) if _WORD.search(part)]
    said = [word for part in parts for word in _WORD.findall(part)]
    if not said:
        return None
    dictionary = _dictionary(formula.dictionary)
    syllables = sum(len(dictionary.positions(word.lower())) + 1 for word in said)
    ease = formula.base - formula.sentence * len(said) / len(parts) - formula.syllable * syllables / len(said)
    return round(ease, 2)


@cache
def _dictionary(name: str) -> Pyphen:
    from pyphen import Pyphen

    return Pyphen(lang=name, left=1, right=1)
