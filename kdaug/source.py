"""Sources: which parents the next job gets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from random import Random
from typing import Protocol

from kdaug.record import Drop, Record


@dataclass(frozen=True)
class Page:
    """Rows to curate, which a job takes instead of parents. `read` makes of each a record, or the drop that it comes
    to; only jobs that the journal has not decided call it."""

    read: Callable[[], Sequence[Record | Drop]]


class Source(Protocol):
    """`start` gives fresh state; `draw` the parents of the next job (or a page of rows, for its gates alone), or None
    when there are no more; `accept` hears of what its stage kept. A draw never mixes held-out seeds (and what came of
    them) with others. `grows`: what `accept` hears changes later draws, so the source never ends by itself. One that
    draws other than once for each seed may say with `jobs` how often.
    """

    @property
    def seeds(self) -> Sequence[Record]: ...
    @property
    def grows(self) -> bool: ...
    def start(self, held_out: Collection[str] = ()) -> Source: ...
    def draw(self, rng: Random) -> tuple[Record, ...] | Page | None: ...
    def accept(self, record: Record) -> None: ...


def jobs_of(source: Source) -> int | None:
    """How many jobs a source has: a job for each seed, where it has no `jobs` that says otherwise; None where it grows
    and so has no end of its own."""
    if source.grows:
        return None
    jobs: int = getattr(source, "jobs", len(source.seeds))
    return jobs


@dataclass
class Each:
    """Every seed once, in order."""

    seeds: Sequence[Record]
    grows = False
    _next: int = field(default=0, init=False, repr=False)

    def start(self, held_out: Collection[str] = ()) -> Each:
        return Each(self.seeds)

    def draw(self, rng: Random) -> tuple[Record, ...] | None:
        if self._next >= len(self.seeds):
            return None
        self._next += 1
        return (self.seeds[self._next - 1],)

    def accept(self, record: Record) -> None:
        pass


@dataclass
class GrowingPool:
    """Demonstrations from the seeds and from what was kept so far (Self-Instruct, arXiv 2212.10560, §2.2).

    A draw holds `from_grown` grown records (as many as there are) and seeds for the rest, so 8 seeds at first and 6 + 2
    later. With held-out seeds, each job draws from one side only, in proportion to the seeds of the sides.
    """

    seeds: Sequence[Record]
    from_seeds: int = 6  # paper, §2.2
    from_grown: int = 2  # paper, §2.2
    grows = True
    _sides: list[tuple[list[Record], list[Record]]] = field(default_factory=list, init=False, repr=False)
    _held_out: frozenset[str] = field(default=frozenset(), init=False, repr=False)

    def start(self, held_out: Collection[str] = ()) -> GrowingPool:
        live = replace(self)
        live._held_out = frozenset(held_out)
        live._sides = [([], []), ([], [])]
        for seed in self.seeds:
            live._sides[live._is_held_out(seed)][0].append(seed)
        return live

    def draw(self, rng: Random) -> tuple[Record, ...] | None:
        train, test = self._sides
        seeds, grown = test if rng.random() * len(self.seeds) < len(test[0]) else train
        old = rng.sample(grown, min(self.from_grown, len(grown)))
        new = rng.sample(seeds, min(self.from_seeds + self.from_grown - len(old), len(seeds)))
        return (*new, *old)

    def accept(self, record: Record) -> None:
        self._sides[self._is_held_out(record)][1].append(record)

    def _is_held_out(self, record: Record) -> bool:
        return self._held_out.issuperset(record.roots or (record.id,))


@dataclass
class WithOthers:
    """Every seed once, in order, and `count` other ones beside it, drawn evenly from its own side: passages among which
    it is to be found, say. Where its side has fewer, all of them."""

    seeds: Sequence[Record]
    count: int = 4
    grows = False
    _next: int = field(default=0, init=False, repr=False)
    _sides: tuple[Sequence[Record], Sequence[Record]] = field(default=((), ()), init=False, repr=False)
    _held_out: frozenset[str] = field(default=frozenset(), init=False, repr=False)

    def start(self, held_out: Collection[str] = ()) -> WithOthers:
        live = replace(self)
        live._held_out = frozenset(held_out)
        live._sides = (
            [seed for seed in self.seeds if not live._is_held_out(seed)],
            [seed for seed in self.seeds if live._is_held_out(seed)],
        )
        return live

    def draw(self, rng: Random) -> tuple[Record, ...] | None:
        if self._next >= len(self.seeds):
            return None
        seed = self.seeds[self._next]
        self._next += 1
        side = self._sides[self._is_held_out(seed)]
        # One more than is needed, since the seed itself may be among them: the side is not copied for each draw.
        drawn = rng.sample(side, min(self.count + 1, len(side)))
        return (seed, *[other for other in drawn if other.id != seed.id][: self.count])

    def accept(self, record: Record) -> None:
        pass

    def _is_held_out(self, record: Record) -> bool:
        return self._held_out.issuperset(record.roots or (record.id,))


def hold_out(seeds: Sequence[Record], share: float) -> frozenset[str]:
    """The roots whose descendants form the test split: `share` of those of the seeds (at least one, never all), by
    their hash, so that the choice depends neither on their order nor on a seed."""
    if share <= 0:
        return frozenset()
    roots = {root for seed in seeds for root in (seed.roots or (seed.id,))}
    if len(roots) < 2:
        return frozenset()
    ids = sorted(roots, key=lambda i: hashlib.blake2b(i.encode()).digest())
    return frozenset(ids[: min(len(ids) - 1, max(1, ceil(len(ids) * share - 1e-9)))])
