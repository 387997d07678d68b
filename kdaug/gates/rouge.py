"""Lexical novelty: Self-Instruct's ROUGE-L filter, exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import ClassVar, Literal, NamedTuple

from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.gates.lexical import Pool, Rule, plain
from kdaug.gates.novelty import On, check_fields, compared, is_own_seed, near_duplicate, seed_texts
from kdaug.generator import Generate
from kdaug.record import Drop, Record
from kdaug.words import ascii_words, words


class _Evidence(NamedTuple):
    text: str
    plain: bytes
    own_seed: bool


@dataclass
class Rouge(Gate):
    """Drops a text whose ROUGE-L F with a seed or a kept text is above `threshold`.

    Self-Instruct's filter (arXiv 2212.10560, §2.2).
    F = 2 LCS / (m + n) for m and n words. It is decided in whole numbers, so an F of exactly the threshold is kept,
    always; rouge_score's floats come out above 0.7 at some exact ties (7 of 8 and 12 words) and agree everywhere else:
    `ties="rouge_score"` decides those as they do. With the extra `lexical` a large pool is searched by compiled code,
    which finds the same, faster.
    `on` says what is compared: `instruction` leaves a separate input aside, `prompt` is the whole prompt without system
    messages, `completion` the answer. `tokenizer="unicode"` equals rouge_score's on ASCII text and sees words of every
    script; `"rouge_score"` is rouge_score's own, to which text in another script is nothing, so never a duplicate.

    Drops `rouge:near_duplicate` with the twin (the earliest above the threshold), its F and text, and `rouge:empty`.
    """

    name: ClassVar[str] = "rouge"
    threshold: float = 0.7  # paper, §2.2
    on: On = "instruction"
    tokenizer: Literal["unicode", "rouge_score"] = "unicode"
    ties: Literal["kept", "rouge_score"] = "kept"
    _seed_texts: Mapping[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seeds: Pool | None = field(default=None, init=False, repr=False, compare=False)
    _kept: Pool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self.name, self.threshold, self.on)
        if self.tokenizer not in ("unicode", "rouge_score"):
            raise ConfigError(f"rouge: tokenizer must be unicode or rouge_score, not {self.tokenizer!r}")
        if self.ties not in ("kept", "rouge_score"):
            raise ConfigError(f"rouge: ties must be kept or rouge_score, not {self.ties!r}")
        self._kept = self._pool()

    def start(self, seeds: Sequence[Record]) -> Rouge:
        live = replace(self)
        live._seed_texts = seed_texts(seeds, self.on)
        return live

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        if self._kept.outgrown:
            await self._kept.compile()
        text = compared(record, self.on)
        return Prepared(record, _Evidence(text, self._plain(text), is_own_seed(record, text, self._seed_texts)))

    def decide(self, prepared: Prepared) -> Drop | None:
        text, plain, own_seed = prepared.evidence
        if not text.strip():
            return Drop("rouge:empty", {"on": self.on})
        twin = None if own_seed else self._seed_pool().earliest_twin(plain)
        twin = twin or self._kept.earliest_twin(plain)
        return near_duplicate(self.name, twin.id, twin.score, twin.text) if twin else None

    def remember(self, prepared: Prepared) -> None:
        self._kept.add(prepared.record.id, prepared.evidence.text, prepared.evidence.plain)

    def _pool(self) -> Pool:
        exact = Fraction(repr(float(self.threshold)))  # 0.7 means 7/10, not the float nearest to it
        return Pool(Rule(exact, float(self.threshold) if self.ties == "rouge_score" else None))

    def _seed_pool(self) -> Pool:
        """Filled at the first record that is held against the seeds: where every record is a seed's own, never."""
        if self._seeds is None:
            self._seeds = self._pool()
            for seed, text in self._seed_texts.items():
                self._seeds.add(seed, text, self._plain(text))
        return self._seeds

    def _plain(self, text: str) -> bytes:
        return plain(text, words if self.tokenizer == "unicode" else ascii_words)
