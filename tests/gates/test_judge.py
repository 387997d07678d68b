"""The judge gate keeps what reaches its least mark and never takes a failed reply for one."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.gates.judge import Judge
from kdaug.record import Drop, Record, assistant, user

RECORD = Record(prompt=user("Name a river."), completion=assistant("The Rhine."), scores={"rouge": 0.2})


def verdict(gate: Judge, reply: str) -> tuple[Record, Drop | None]:
    prepared = asyncio.run(gate.prepare(RECORD, Scripted(in_turn(reply))))
    return prepared.record, gate.decide(prepared)


def test_the_least_mark_itself_is_kept_and_written_down() -> None:
    record, drop = verdict(Judge(min=4), "Right. Score: 4")
    assert drop is None
    assert record.scores == {"rouge": 0.2, "judge": 4.0}


def test_a_lower_mark_is_dropped_with_its_evidence() -> None:
    _, drop = verdict(Judge(min=4), "The Rhine is one, but say more.\nScore: 3")
    assert drop == Drop("judge:low", {"score": 3.0, "min": 4, "rationale": "The Rhine is one, but say more."})


def test_a_reply_without_a_mark_is_no_score() -> None:
    with pytest.raises(ParseError) as failure:
        verdict(Judge(min=1), "It is good.")
    assert failure.value.reason == "parse:score"


def test_half_points_on_a_scale_of_ten() -> None:
    record, drop = verdict(Judge(min=7.5, high=10, half=True), "Score: 7.5/10")
    assert drop is None and record.scores["judge"] == 7.5


@pytest.mark.parametrize("fields", [{"min": 6}, {"min": 0}, {"min": 3, "low": 5, "high": 1}])
def test_a_mark_that_nobody_can_give_is_refused_at_once(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Judge(**fields)
