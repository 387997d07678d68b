"""Equal shares of what a field says: a tag, a topic, a kind, a range of scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

from kdaug.errors import ConfigError
from kdaug.record import Drop, Record
from kdaug.selector import Pool, Selection, check_n, no_score, select_by_group


@dataclass(frozen=True)
class Balance:
    """Takes as equal a number of each value of the field `by` as there are, `n` in all: by `score` where one is named,
    else by id, which is a draw that depends on no order.

    `by` is a field of the record (`kind`, `by`, `teachers`), `scores.NAME` in `bins` ranges of equal width, or a path
    into its meta (`meta.topic`). A record with several values (tags) counts for the rarest of them.

    Leaves out `select:balance` with the value, the rank in its group, its quota and its size, `select:no_value` and
    `select:no_score`. Raises ConfigError where no record has the field.
    """

    name: ClassVar[str] = "balance"
    n: int
    by: str
    bins: int = 10
    score: str | None = None

    def __post_init__(self) -> None:
        check_n(self)
        if self.bins < 1:
            raise ConfigError(f"balance: bins is {self.bins}: it must be at least 1")
        head, _, tail = self.by.partition(".")
        if not (self.by in ("kind", "by", "teachers") or (head in ("scores", "meta") and tail)):
            raise ConfigError(f"balance: by is {self.by!r}: give kind, by, teachers, scores.NAME or meta.NAME")

    def select(self, pool: Pool) -> Selection:
        ranked, _ = pool.ranked(self.score)
        labels = self._labels(pool)
        groups: dict[str, list[int]] = {}
        for place in ranked:
            if labels[place]:
                groups.setdefault(labels[place], []).append(place)

        def rest(place: int) -> Drop:
            return no_score(self.score) if labels[place] else Drop("select:no_value", {"by": self.by})

        return select_by_group(pool, groups, self.n, "select:balance", rest)

    def _labels(self, pool: Pool) -> list[str]:
        """Of each place the value that it counts for; empty where it has none."""
        if self.by.startswith("scores."):
            return _binned(pool.scores(self.by.removeprefix("scores.")), self.bins)
        values = [_values(record, self.by) for record in pool.records()]
        times = Counter(value for several in values for value in several)
        if values and not times:
            raise ConfigError(f"balance: no record has {self.by!r}. The run is kept: change select alone")
        return [min(several, key=lambda value: (times[value], value), default="") for several in values]


def _binned(scores: Sequence[float], bins: int) -> list[str]:
    known = [s for s in scores if isfinite(s)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    width = (high - low) / bins or 1.0

    def label(score: float) -> str:
        start = low + width * min(bins - 1, int((score - low) / width))
        return f"{start:g} to {start + width:g}" if high > low else f"{low:g}"

    return [label(score) if isfinite(score) else "" for score in scores]


def _values(record: Record, path: str) -> list[str]:
    head, *more = path.split(".")
    value: Any = getattr(record, head)
    for name in more:
        value = value.get(name) if isinstance(value, Mapping) else None
    several = value if isinstance(value, (list, tuple)) else [value]
    return sorted({str(one) for one in several if one is not None and str(one)})
