"""Near-duplicates in very large sets: MinHash finds candidates, the exact Jaccard similarity decides."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from kdaug.errors import ConfigError, require, shorten
from kdaug.gate import Gate, Prepared
from kdaug.gates.lexical import Twin
from kdaug.gates.novelty import On, check_fields, compared, is_own_seed, near_duplicate, seed_texts
from kdaug.generator import Generate
from kdaug.record import Drop, Record
from kdaug.words import words

if TYPE_CHECKING:
    from rensa import RMinHash

SLOTS = 128  # of a sketch
RECALL = 0.99  # the chance that a pair exactly at the threshold becomes a candidate is at least this


class _Evidence(NamedTuple):
    text: str
    shingles: array[int]  # hashes, 64 bits each
    sketch: RMinHash
    own_seed: bool


@dataclass
class MinHash(Gate):
    """Drops a text whose Jaccard similarity with a seed or a kept text is above `threshold`; the first is kept.

    What is compared are the sets of shingles: runs of `shingle` words (a shorter text is one shingle). Candidates come
    from locality-sensitive hashing (Broder 1997; Indyk and Motwani 1998) by rensa, with as few bands as give a pair at
    the threshold a chance of 99 % to be found; each candidate's similarity is then computed from the shingles
    themselves, so nothing is dropped wrongly, and few twins are missed. Word order counts within a shingle only. For up
    to a million short texts `rouge` is exact and as fast.

    Drops `minhash:near_duplicate` with the twin (the earliest candidate above the threshold), the similarity and its
    text, and `minhash:empty`.
    """

    name: ClassVar[str] = "minhash"
    threshold: float = 0.7
    shingle: int = 3
    on: On = "prompt"
    _seed_texts: Mapping[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seeds: _Candidates | None = field(default=None, init=False, repr=False, compare=False)
    _kept: _Candidates = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self.name, self.threshold, self.on)
        if self.shingle < 1:
            raise ConfigError(f"minhash: shingle must be at least 1, not {self.shingle!r}")
        require("rensa", "lexical", "the minhash gate")
        self._kept = _Candidates(self.threshold)

    def start(self, seeds: Sequence[Record]) -> MinHash:
        live = replace(self)
        live._seed_texts = seed_texts(seeds, self.on)
        return live

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        text = compared(record, self.on)
        return Prepared(record, self._sketched(text, is_own_seed(record, text, self._seed_texts)))

    def decide(self, prepared: Prepared) -> Drop | None:
        evidence: _Evidence = prepared.evidence
        if not evidence.text.strip():
            return Drop("minhash:empty", {"on": self.on})
        twin = None if evidence.own_seed else self._seed_candidates().earliest_twin(evidence)
        twin = twin or self._kept.earliest_twin(evidence)
        return near_duplicate(self.name, twin.id, round(twin.score, 6), twin.text) if twin else None

    def remember(self, prepared: Prepared) -> None:
        self._kept.add(prepared.record.id, prepared.evidence)

    def _seed_candidates(self) -> _Candidates:
        """Filled at the first record that is held against the seeds: where every record is a seed's own, never."""
        if self._seeds is None:
            self._seeds = _Candidates(self.threshold)
            for seed, text in self._seed_texts.items():
                self._seeds.add(seed, self._sketched(text))
        return self._seeds

    def _sketched(self, text: str, own_seed: bool = False) -> _Evidence:
        from rensa import RMinHash
        from xxhash import xxh3_64_intdigest

        found = words(text)
        runs = max(1, len(found) - self.shingle + 1) if found else 0
        shingles = list({" ".join(found[i : i + self.shingle]) for i in range(runs)})
        sketch = RMinHash(num_perm=SLOTS, seed=0)
        sketch.update(shingles)
        return _Evidence(text, array("Q", [xxh3_64_intdigest(s.encode()) for s in shingles]), sketch, own_seed)


class _Candidates:
    """Texts in the order in which they were added, and rensa's bands of their sketches."""

    def __init__(self, threshold: float) -> None:
        from rensa import RMinHashLSH

        self._threshold = Fraction(repr(float(threshold)))
        self._lsh = RMinHashLSH(threshold=threshold, num_perm=SLOTS, num_bands=bands(threshold))
        self._texts: list[tuple[str, str, array[int]]] = []  # id, the text shortened, its shingles

    def add(self, id: str, evidence: _Evidence) -> None:
        if evidence.shingles:
            self._lsh.insert(len(self._texts), evidence.sketch)
        self._texts.append((id, shorten(evidence.text), evidence.shingles))

    def earliest_twin(self, evidence: _Evidence) -> Twin | None:
        if not evidence.shingles:
            return None
        mine = set(evidence.shingles)
        for place in sorted(set(self._lsh.query(evidence.sketch))):
            id, text, theirs = self._texts[place]
            shared = len(mine.intersection(theirs))
            either = len(mine) + len(theirs) - shared
            if shared * self._threshold.denominator > self._threshold.numerator * either:
                return Twin(id, text, shared / either)
        return None


def bands(threshold: float) -> int:
    """The fewest bands of a sketch by which a pair of this similarity is found with a chance of `RECALL`:
    1 - (1 - s^r)^b for b bands of r slots (Leskovec et al., Mining of Massive Datasets, §3.4)."""
    for number in (8, 16, 32, 64):
        if 1 - (1 - threshold ** (SLOTS // number)) ** number >= RECALL:
            return number
    return SLOTS
