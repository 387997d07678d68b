"""How many kept records there are of each attribute, and which values have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from kdaug.attributes import attributes_of
from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.record import Drop, Json, Record


@dataclass
class Coverage(Gate):
    """Counts what was kept by the attributes drawn for it (`meta.attributes`); what it counted stands in run.json and
    the card.

    With `most`, a record is dropped as `coverage:full` where one combination of attributes has as many already. Put it
    last: it counts what it sees kept.
    """

    most: int | None = None

    name: ClassVar[str] = "coverage"
    _values: dict[str, Counter[str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _cells: Counter[tuple[str, ...]] = field(default_factory=Counter, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.most is not None and self.most < 1:
            raise ConfigError(f"coverage: most is {self.most}; it must be at least 1")

    def start(self, seeds: Sequence[Record]) -> Coverage:
        return replace(self)

    def decide(self, prepared: Prepared) -> Drop | None:
        drawn = attributes_of(prepared.record)
        if self.most is not None and self._cells[tuple(drawn.values())] >= self.most:
            return Drop("coverage:full", {"attributes": dict(drawn), "most": self.most})
        return None

    def remember(self, prepared: Prepared) -> None:
        drawn = attributes_of(prepared.record)
        self._cells[tuple(drawn.values())] += 1
        for axis, value in drawn.items():
            self._values.setdefault(axis, Counter())[value] += 1

    def report(self) -> Mapping[str, Json]:
        told: dict[str, Json] = {axis: dict(sorted(counts.items())) for axis, counts in sorted(self._values.items())}
        return {"combinations": sum(1 for cell in self._cells if cell), **told}
