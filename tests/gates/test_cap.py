"""A cap of records by a field of theirs."""

from __future__ import annotations

import pytest
from deciding import decisions

from kdaug.errors import ConfigError
from kdaug.gates.cap import Cap
from kdaug.record import Record, user


def of(task: str | None, number: int) -> Record:
    return Record(prompt=user(f"{task} {number}"), meta={} if task is None else {"task": task})


def test_the_first_of_each_task_are_kept() -> None:
    records = [of(task, n) for n in range(4) for task in ("a", "b", None)]
    made = decisions(Cap(most=2).start([]), records, window=5)
    assert [drop is None for drop in made] == [True] * 6 + [False, False, True] * 2
    drop = made[6]
    assert drop is not None and drop.reason == "cap:full" and drop.detail == {"task": "a", "most": 2}


def test_a_started_gate_is_fresh() -> None:
    gate = Cap(most=1)
    assert decisions(gate.start([]), [of("a", 0)]) == decisions(gate.start([]), [of("a", 1)]) == [None]
    with pytest.raises(ConfigError, match="most"):
        Cap(most=0)
