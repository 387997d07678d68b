"""Attributes: what a record is to be like (a persona, a topic, a difficulty), drawn so that every value gets its share
(AttrPrompt, arXiv 2306.15895, §3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from kdaug.errors import ConfigError
from kdaug.record import Json, Record


@dataclass
class Attributes:
    """Seeds in turn, each with a value of every axis: `draws` in all (None: each seed once for every value of the
    longest axis).

    The values of an axis are drawn like cards: each once in random order, then all again, so their numbers never differ
    by more than one. `avoid` lists combinations that make no sense (`{age: child, job: judge}`); a card that would make
    one goes to the back of its pack. What was drawn stands in `meta.attributes`.
    """

    seeds: Sequence[Record]
    axes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    draws: int | None = None
    avoid: Sequence[Mapping[str, str]] = ()
    grows = False
    _packs: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False)
    _drawn: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.axes:
            raise ConfigError("attributes: give axes, such as {difficulty: [easy, hard]}")
        for axis, values in self.axes.items():
            if not isinstance(values, (list, tuple)) or not values or len(set(map(str, values))) < len(values):
                raise ConfigError(f"attributes: axes.{axis} must be a list of different values")
        for combination in self.avoid:
            for axis, value in combination.items():
                if value not in self.axes.get(axis, ()):
                    raise ConfigError(f"attributes: avoid names {axis}: {value}, which no axis has")
        if self.draws is not None and self.draws < 1:
            raise ConfigError(f"attributes: draws is {self.draws}; it must be at least 1")

    @property
    def jobs(self) -> int:
        return self.draws or len(self.seeds) * max(len(values) for values in self.axes.values())

    def start(self, held_out: Collection[str] = ()) -> Attributes:
        return replace(self)

    def draw(self, rng: Random) -> tuple[Record, ...] | None:
        if self._drawn >= self.jobs:
            return None
        seed = self.seeds[self._drawn % len(self.seeds)]
        self._drawn += 1
        values: dict[str, Json] = {}
        for axis in self.axes:
            values[axis] = self._card(axis, values, rng)
        return (replace(seed, meta={**seed.meta, "attributes": values}),)

    def accept(self, record: Record) -> None:
        pass

    def _card(self, axis: str, before: Mapping[str, Json], rng: Random) -> str:
        """The next of a pack that makes no combination to avoid, else the next one of the pack after it."""
        for _ in range(2):
            pack = self._packs.setdefault(axis, [])
            place = next((i for i, value in enumerate(pack) if not self._avoided({**before, axis: value})), None)
            if place is not None:
                return pack.pop(place)
            fresh = [str(value) for value in self.axes[axis]]
            rng.shuffle(fresh)
            pack.extend(fresh)
        raise ConfigError(f"attributes: avoid leaves no value of {axis} beside {dict(before)}")

    def _avoided(self, values: Mapping[str, Json]) -> bool:
        return any(all(values.get(a) == v for a, v in combination.items()) for combination in self.avoid)


def attributes_of(record: Record) -> dict[str, str]:
    """What was drawn for a record or its parent; empty where nothing was."""
    drawn = record.meta.get("attributes")
    return {name: str(value) for name, value in drawn.items()} if isinstance(drawn, dict) else {}
