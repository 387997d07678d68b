"""At most so many records of each task, topic or whatever a field of theirs names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.record import Drop, Record


@dataclass
class Cap(Gate):
    """Keeps the first `most` records of each value of `meta[by]` (Orca, arXiv 2306.02707, §3.1: at most 300 queries of
    a task). Drops `cap:full` with the value; records without the field are not counted.
    """

    most: int = 300
    by: str = "task"

    name: ClassVar[str] = "cap"
    _kept: Counter[str] = field(default_factory=Counter, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ConfigError(f"cap: most is {self.most}; it is at least 1")

    def start(self, seeds: Sequence[Record]) -> Cap:
        return Cap(self.most, self.by)

    def decide(self, prepared: Prepared) -> Drop | None:
        value = self._value(prepared)
        full = value is not None and self._kept[value] >= self.most
        return Drop("cap:full", {self.by: value, "most": self.most}) if full else None

    def remember(self, prepared: Prepared) -> None:
        if (value := self._value(prepared)) is not None:
            self._kept[value] += 1

    def _value(self, prepared: Prepared) -> str | None:
        value = prepared.record.meta.get(self.by)
        return None if value is None else str(value)
