"""Lexical novelty: Self-Instruct's ROUGE-L filter, exact."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import ClassVar, Literal, NamedTuple

from rapidfuzz.distance import LCSseq

from kdaug.errors import ConfigError, shorten
from kdaug.gate import Gate, Prepared
from kdaug.gates.novelty import On, check_fields, compared, is_own_seed, near_duplicate, seed_texts
from kdaug.gates.words import ascii_words, words
from kdaug.generator import Generate
from kdaug.record import Drop, Record


class _Twin(NamedTuple):
    id: str
    text: str
    score: float


class _Encoded(NamedTuple):
    """A text as numbers. `tokens`: one a word, in order. `keys`: the same as a set, in which a word's second, third…
    occurrence has a number of its own; the newest number first."""

    text: str
    tokens: tuple[int, ...]
    keys: tuple[int, ...]


class _Evidence(NamedTuple):
    encoded: _Encoded
    twin: _Twin | None
    seen: int  # how many kept texts the search has looked at


@dataclass
class Rouge(Gate):
    """Drops a text whose ROUGE-L F with a seed or a kept text is above `threshold`.

    Self-Instruct's filter (arXiv 2212.10560, §2.2).
    F = 2 LCS / (m + n) for m and n words. It is decided in whole numbers, so an F of exactly the threshold is kept,
    always; rouge_score's floats come out above 0.7 at some exact ties (7 of 8 and 12 words) and agree everywhere else.
    `on` says what is compared: `instruction` leaves a separate input aside, `prompt` is the whole prompt without system
    messages, `completion` the answer. `tokenizer="unicode"` equals rouge_score's on ASCII text and sees words of every
    script; `"rouge_score"` is rouge_score's own, to which text in another script is nothing, so never a duplicate.

    Drops `rouge:near_duplicate` with the twin (the earliest above the threshold), its F and text, and `rouge:empty`.
    """

    name: ClassVar[str] = "rouge"
    threshold: float = 0.7  # paper, §2.2
    on: On = "instruction"
    tokenizer: Literal["unicode", "rouge_score"] = "unicode"
    _numbers: dict[object, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seed_texts: Mapping[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seeds: _Index | None = field(default=None, init=False, repr=False, compare=False)
    _kept: _Index = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self.name, self.threshold, self.on)
        if self.tokenizer not in ("unicode", "rouge_score"):
            raise ConfigError(f"rouge: tokenizer must be unicode or rouge_score, not {self.tokenizer!r}")
        self._kept = self._index()

    def start(self, seeds: Sequence[Record]) -> Rouge:
        live = replace(self)
        live._seed_texts = seed_texts(seeds, self.on)
        return live

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        text = compared(record, self.on)
        encoded, twin = self._encode(text), None
        if not is_own_seed(record, text, self._seed_texts):
            twin = self._seed_index().earliest_twin(encoded)
        twin = twin or self._kept.earliest_twin(encoded)
        return Prepared(record, _Evidence(encoded, twin, len(self._kept)))

    async def recall(self, record: Record, generate: Generate) -> Prepared:
        return Prepared(record, _Evidence(self._encode(compared(record, self.on)), None, len(self._kept)))

    def decide(self, prepared: Prepared) -> Drop | None:
        encoded, twin, seen = prepared.evidence
        if not encoded.text.strip():
            return Drop("rouge:empty", {"on": self.on})
        twin = twin or self._kept.earliest_twin(encoded, since=seen)
        return near_duplicate(self.name, twin.id, twin.score, twin.text) if twin else None

    def remember(self, prepared: Prepared) -> None:
        self._kept.add(prepared.record.id, prepared.evidence.encoded)

    def _index(self) -> _Index:
        return _Index(Fraction(repr(float(self.threshold))))  # 0.7 means 7/10, not the float nearest to it

    def _seed_index(self) -> _Index:
        """Built at the first record that is held against the seeds: where every record is a seed's own, never."""
        if self._seeds is None:
            self._seeds = self._index()
            for seed, text in self._seed_texts.items():
                self._seeds.add(seed, self._encode(text))
        return self._seeds

    def _encode(self, text: str) -> _Encoded:
        numbers, tokens, keys = self._numbers, [], []
        times: dict[str, int] = {}
        for word in words(text) if self.tokenizer == "unicode" else ascii_words(text):
            before = times.get(word, 0)
            times[word] = before + 1
            number = numbers.setdefault(word, len(numbers))
            tokens.append(number)
            keys.append(numbers.setdefault((word, before), len(numbers)) if before else number)
        return _Encoded(text, tuple(tokens), tuple(sorted(keys, reverse=True)))


class _Index:
    """Finds the earliest text with an F above the threshold, without comparing with all of them.

    Two texts of m and n keys that share at least c, put in any one order, share one among the first m - c + 1 of the
    one and the first n - c + 1 of the other, and from the first shared one on both have c or more left (prefix and
    positional filter: Chaudhuri et al. 2006, Bayardo et al. 2007, Xiao et al. 2008). The order here is newest number
    first: words that turned up late are rare, so few texts are candidates. Only these are compared.
    """

    def __init__(self, threshold: Fraction) -> None:
        self._above, self._of = threshold.numerator, threshold.denominator
        self._texts: list[tuple[str, tuple[int, ...], str]] = []  # id, tokens, the text shortened
        # For a key, the texts with it in their prefix, ascending: place, keys in all, keys from this one on.
        self._holders: dict[int, list[tuple[int, int, int]]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, id: str, encoded: _Encoded) -> None:
        n = len(encoded.keys)
        for position, key in enumerate(self._prefix(encoded)):
            self._holders.setdefault(key, []).append((len(self._texts), n, n - position))
        self._texts.append((id, encoded.tokens, shorten(encoded.text)))

    def earliest_twin(self, encoded: _Encoded, since: int = 0) -> _Twin | None:
        """Looks only at the texts from place `since` on."""
        m = len(encoded.tokens)
        for place in self._candidates(encoded, since):
            id, tokens, text = self._texts[place]
            needed = self._needed(m, len(tokens))
            common = LCSseq.similarity(encoded.tokens, tokens, score_cutoff=needed)
            if common >= needed:
                return _Twin(id, text, 2 * common / (m + len(tokens)))
        return None

    def _candidates(self, encoded: _Encoded, since: int) -> list[int]:
        m, above, of = len(encoded.keys), self._above, 2 * self._of
        found: set[int] = set()
        for position, key in enumerate(self._prefix(encoded)):
            left, holders = m - position, self._holders.get(key, [])
            for place, n, other_left in holders[bisect_left(holders, (since,)) :]:
                if left > (c := above * (m + n) // of) and other_left > c:
                    found.add(place)
        return sorted(found)

    def _needed(self, m: int, n: int) -> int:
        """The least LCS with 2 LCS / (m + n) > threshold."""
        return self._above * (m + n) // (2 * self._of) + 1

    def _prefix(self, encoded: _Encoded) -> tuple[int, ...]:
        """The keys of which a twin has at least one: the least LCS is that with the shortest text that can be one."""
        m = len(encoded.keys)
        shortest = self._above * m // (2 * self._of - self._above) + 1
        return encoded.keys[: max(0, m - self._needed(m, shortest) + 1)]
