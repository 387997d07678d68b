"""Which language a text is in, by lingua."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from kdaug.errors import ConfigError, require
from kdaug.gate import Gate, Prepared
from kdaug.gates.languages import prose
from kdaug.gates.novelty import On, check_fields, compared
from kdaug.generator import Generate
from kdaug.record import Drop, Json, Record

if TYPE_CHECKING:
    from lingua import LanguageDetector

DIGITS = 4
MOST = 2000  # characters that are looked at


class _Found(NamedTuple):
    language: str
    score: float


@dataclass(frozen=True)
class InLanguage(Gate):
    """Drops texts that are plainly in another language than those wanted, codes of ISO 639-1 such as `en`.

    lingua gives each of its 75 languages a probability. `scores["language"]` is that of the likeliest wanted one beside
    that of the likeliest: 1 where it is one of them. `meta.language` is the likeliest, for a selection to balance by.
    Below `min` a record is dropped (`language:other`); a few words may be of several languages. Fenced code is left
    out, and a text without letters has no language and is kept. `on` says which text, as in `Rouge`; a blank one is
    dropped (`language:empty`).

    `accurate` takes a gigabyte of memory and some 15 s of loading; without it lingua looks at runs of three letters
    only, in 80 MB, which is as good for texts of 120 characters and more, and not for short ones.
    """

    languages: Sequence[str] = ("en",)
    min: float = 0.5
    on: On = "completion"
    accurate: bool = True

    name: ClassVar[str] = "language"

    def __post_init__(self) -> None:
        check_fields(self.name, 0, self.on)
        if not 0 <= self.min <= 1:
            raise ConfigError(f"language: min must be between 0 and 1, not {self.min!r}")
        require("lingua", "filters", "the language gate")
        from lingua import Language

        known = sorted(language.iso_code_639_1.name.lower() for language in Language.all())
        if not self.languages or not set(self.languages) <= set(known):
            raise ConfigError(f"language: languages are codes among {', '.join(known)}, not {list(self.languages)!r}")

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        text = compared(record, self.on)
        if not text.strip():
            return Prepared(record, Drop("language:empty", {"on": self.on}))
        found = await asyncio.to_thread(self._look, prose(text)[:MOST])
        if found is None:
            return Prepared(record)
        known = replace(record, meta={**record.meta, "language": found.language})
        drop = None
        if found.score < self.min:
            wanted: list[Json] = list(self.languages)
            detail: dict[str, Json] = {
                "found": found.language,
                "score": found.score,
                "min": self.min,
                "languages": wanted,
            }
            drop = Drop("language:other", detail)
        return Prepared(known.scored(language=found.score), drop)

    def _look(self, text: str) -> _Found | None:
        values = _detector(self.accurate).compute_language_confidence_values(text)
        shares = {one.language.iso_code_639_1.name.lower(): one.value for one in values}
        likeliest = max(shares, key=lambda code: shares[code])
        if not shares[likeliest]:
            return None
        score = 1.0 if likeliest in self.languages else max(shares[c] for c in self.languages) / shares[likeliest]
        return _Found(likeliest, round(score, DIGITS))


@cache
def _detector(accurate: bool) -> LanguageDetector:
    from lingua import LanguageDetectorBuilder

    builder = LanguageDetectorBuilder.from_all_languages()
    return (builder if accurate else builder.with_low_accuracy_mode()).build()
