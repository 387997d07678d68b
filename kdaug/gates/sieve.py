"""A sieve before the encoder: what a static model finds like nothing else is kept without it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kdaug.record import Json
from kdaug.vectors import Twin, Vectors

if TYPE_CHECKING:
    from kdaug.embedding import Array

AHEAD = 4  # batches that may be in flight: of like texts among them the encoder's vectors are made in advance
SAMPLE, NEAREST = 500, 8  # records that were let pass and are looked at again, beside so many kept ones each


class Real:
    """The encoder's vectors of the texts that need one: float32, NaN where it gives none."""

    def __init__(self, embed: Callable[[list[str]], Array]) -> None:
        self._embed, self._known = embed, dict[str, Any]()

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        if missing := list(dict.fromkeys(text for text in texts if text not in self._known)):
            self._known.update(zip(missing, self._embed(missing), strict=True))
        return [self._known[text] for text in texts]


class _Passed(NamedTuple):
    text: str
    vector: Array
    until: int


class Sieve:
    """Kept texts by their static vectors. Of two texts whose static cosine is `floor` or less none is the other's twin;
    of the others the encoder's cosine decides, so no drop is a wrong one."""

    def __init__(self, real: Real, floor: float, threshold: float) -> None:
        self._real, self._floor, self._threshold = real, floor, threshold
        self._rows, self._texts = Vectors(), list[str]()
        self._ahead: deque[tuple[list[str], Array]] = deque(maxlen=AHEAD)
        self._passed: list[_Passed] = []
        self._every = 1
        self._let_pass = self._dropped = 0

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str, vector: Array) -> None:
        self._rows.add(vector[None])
        self._texts.append(text)

    def search(self, texts: list[str], vectors: Array, until: int) -> list[list[int]]:
        """Of each text the kept ones, of the first `until`, that are like it by the sieve. The encoder's vectors of all
        that will be compared are made here, in a batch: also of what is not decided yet."""
        found = self._rows.near(vectors, self._floor, until)
        wanted = [text for text, places in zip(texts, found, strict=True) if places]
        wanted += [self._texts[place] for places in found for place in places]
        self._ahead.append((texts, vectors))
        for others, theirs in self._ahead:
            mine, yours = (vectors @ theirs.T > self._floor).nonzero()
            pairs = zip(mine.tolist(), yours.tolist(), strict=True)
            wanted += [text for i, j in pairs if others is not texts or i != j for text in (texts[i], others[j])]
        self._real(wanted)
        return found

    def renewed(self, text: str, vector: Array, near: list[int], seen: int) -> Twin | None:
        """The first kept text whose cosine, by the encoder, is above the threshold; `near` are those of the first
        `seen` that are like it by the sieve. Where the encoder gives the text no vector, the twin's score is NaN."""
        import numpy as np

        places = [*near, *self._rows.near_one(vector, self._floor, seen, len(self))]
        if not places:
            self._note(_Passed(text, vector, len(self)))
            return None
        mine, *others = self._real([text, *(self._texts[place] for place in places)])
        wide: Any = mine.astype(np.float64)
        if np.isnan(wide).any():
            return Twin(places[0], float("nan"))
        for place, other in zip(places, others, strict=True):
            score = float(np.dot(other.astype(np.float64), wide))
            if score > self._threshold:
                self._dropped += 1
                return Twin(place, score)
        return None

    def recall(self) -> dict[str, Json]:
        """Of a sample of what the sieve let pass: how many have a twin after all, among the kept texts that are most
        like them by the sieve; and by that, which part of all twins is found."""
        missed = sum(self._has_twin(passed) for passed in self._passed)
        figures: dict[str, Json] = {"passed": self._let_pass, "sampled": len(self._passed), "missed": missed}
        lost = self._let_pass * missed / len(self._passed) if self._passed else 0.0
        if self._dropped + lost:
            figures["recall"] = round(self._dropped / (self._dropped + lost), 4)
        return figures

    def _has_twin(self, passed: _Passed) -> bool:
        import numpy as np

        if not passed.until:
            return False
        likeness: Any = np.concatenate([tile @ passed.vector for tile in self._rows.tiles(0, passed.until)])
        best = np.argsort(-likeness, kind="stable")[:NEAREST].tolist()
        mine, *others = self._real([passed.text, *(self._texts[place] for place in best)])
        return any(float(np.dot(other, mine)) > self._threshold for other in others)

    def _note(self, passed: _Passed) -> None:
        """Every n-th, n doubled whenever the sample is twice as large as it need be."""
        self._let_pass += 1
        if self._let_pass % self._every:
            return
        self._passed.append(passed)
        if len(self._passed) == 2 * SAMPLE:
            self._passed, self._every = self._passed[1::2], 2 * self._every
