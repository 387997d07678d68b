"""Selection: which n records of all that a run kept make its dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from math import isfinite, nan, prod
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from kdaug.dataset import split_of
from kdaug.embedding import Embedder, Step, nothing
from kdaug.errors import ConfigError
from kdaug.record import Drop, Part, Record, spoken, text_of

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class BrokenOff(Exception):
    """Nobody waits for the selection any more."""


CHUNK = 8192  # texts that are held to be embedded


@dataclass(frozen=True)
class Selection:
    """`kept`: places in the pool, each once. `why` tells for any other place why it was left out."""

    kept: Collection[int]
    why: Callable[[int], Drop]


class Selector(Protocol):
    """Chooses `n` records of a pool (all of them where it has no more), the same whatever their order is.

    A run selects when its dataset is derived, so a selector may change from one part of a run to the next.
    """

    @property
    def name(self) -> str: ...
    @property
    def n(self) -> int: ...
    def select(self, pool: Pool) -> Selection: ...


@dataclass(frozen=True)
class Pool:
    """What there is to select from. `records` reads it anew at each call: records are never held, only what is asked
    of them. A place is a record's number in this order."""

    records: Callable[[], Iterable[Record]]
    ids: Sequence[str]
    step: Step = nothing  # to be called between the steps of long work: it raises BrokenOff where the run is broken off

    def scores(self, name: str) -> list[float]:
        """A score by its name, or the product of several (`complexity*quality`); nan where a record lacks it.

        Raises ConfigError where no record has it.
        """
        names = [part.strip() for part in name.split("*")]
        found = [prod(r.scores.get(n, nan) for n in names) for r in self.records()]
        if found and not any(map(isfinite, found)):
            known = sorted({n for r in self.records() for n in r.scores})
            there = f"there are {', '.join(known)}" if known else "a gate that scores, such as judge, gives one"
            raise ConfigError(
                f"select: no record has the score {name!r}; {there}. The run is kept: change select alone"
            )
        return found

    def ranked(self, score: str | None) -> tuple[list[int], list[float]]:
        """The places that have the score, the highest first and equal ones by id (all by id without a score), and the
        scores of all places."""
        if score is None:
            return sorted(range(len(self.ids)), key=lambda place: (self.ids[place], place)), [0.0] * len(self.ids)
        scores = self.scores(score)
        known = (place for place, value in enumerate(scores) if isfinite(value))
        return sorted(known, key=lambda place: (-scores[place], self.ids[place], place)), scores

    def vectors(self, model: str | None, on: Part, places: Sequence[int]) -> Array:
        """Of each of `places` the embedding: float32 [places, dimensions], unit rows; zeros where there is no text."""
        import numpy as np

        at = {place: row for row, place in enumerate(places)}
        embedder, texts, rows = Embedder(model), list[str](), list[int]()
        found: Array = np.zeros((len(places), 1), np.float32)

        def flush() -> None:
            nonlocal found
            if texts:
                vectors = embedder.embed(texts, self.step)
                if found.shape[1] != vectors.shape[1]:
                    found = np.zeros((len(places), vectors.shape[1]), np.float32)
                found[rows] = vectors
                texts.clear()
                rows.clear()

        for place, record in enumerate(self.records()):
            if place in at and (text := text_of(spoken(record, on))).strip():
                texts.append(text)
                rows.append(at[place])
                if len(texts) == CHUNK:
                    flush()
        flush()
        return found


@dataclass(frozen=True)
class Chosen:
    """A selection as a run uses it. `mask`: for every record that the last stage kept, whether it is in the dataset."""

    mask: bytearray
    kept: int
    pool: int
    dropped: Mapping[str, int]
    why: Callable[[int], Drop]  # by the place in `mask`


def choose(
    selector: Selector, records: Callable[[], Iterable[Record]], held_out: Collection[str], step: Step = nothing
) -> Chosen:
    """Selects from `records`, which must be the same at every call, and calls `step` now and then. What no split may
    hold (its seeds are held out in part) is not in the pool, so that the dataset has exactly n."""
    ids, places, mask = list[str](), list[int](), bytearray()
    for record in records():
        mask.append(split_of(record, held_out) is None)
        if not mask[-1]:
            places.append(len(mask) - 1)
            ids.append(record.id)
    inside = bytes(1 - left for left in mask)
    step()
    selection = selector.select(Pool(lambda: compress(records(), inside), ids, step))
    for place in selection.kept:
        mask[places[place]] = 1
    number = {place: row for row, place in enumerate(places)}
    left = Counter(selection.why(row).reason for row, place in enumerate(places) if not mask[place])
    return Chosen(mask, len(selection.kept), len(ids), dict(left), lambda place: selection.why(number[place]))


def quotas(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """Shares of `n` that are as equal as they can be: a group that has fewer gives all, the rest is shared among the
    others, and what does not divide goes to the first of them by name."""
    shares, left = dict[str, int](), n
    by_size = sorted(sizes, key=lambda name: (sizes[name], name))
    for position, name in enumerate(by_size):
        shares[name] = min(sizes[name], left // (len(by_size) - position))
        left -= shares[name]
    for name in sorted(sizes):
        if left and shares[name] < sizes[name]:
            shares[name] += 1
            left -= 1
    return shares


def select_by_group(
    pool: Pool, groups: Mapping[str, Sequence[int]], n: int, rule: str, rest: Callable[[int], Drop]
) -> Selection:
    """The first of each group, as many as its quota is. `groups`: places, the best first; `rest` tells why a place is
    in none."""
    shares = quotas({name: len(places) for name, places in groups.items()}, n)
    of = {place: (name, rank) for name, places in groups.items() for rank, place in enumerate(places, 1)}

    def why(place: int) -> Drop:
        if place not in of:
            return rest(place)
        name, rank = of[place]
        return Drop(rule, {"group": name, "rank": rank, "quota": shares[name], "size": len(groups[name])})

    return Selection([p for name, places in groups.items() for p in places[: shares[name]]], why)


def check_n(selector: Selector) -> None:
    """Raises ConfigError where `n` is no number of records."""
    if not isinstance(selector.n, int) or selector.n < 1:
        raise ConfigError(f"{selector.name}: n is {selector.n!r}: it is the number of records to select, at least 1")


def check_embedding(model: str | None) -> None:
    """Raises ConfigError where the extra for embeddings is missing, or a folder holds no encoder."""
    _ = Embedder(model).found


def no_score(name: str | None) -> Drop:
    return Drop("select:no_score", {"score": name})


EMPTY = Drop("select:empty")
