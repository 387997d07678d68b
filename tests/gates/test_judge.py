"""The judge gate keeps what reaches its least mark and never takes a failed reply for one."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.gates.judge import Judge
from kdaug.record import Drop, Record, assistant, user
from kdaug.teacher import Completion

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


def test_without_a_least_mark_it_only_scores() -> None:
    record, drop = verdict(Judge(score="grace"), "Score: 1")
    assert drop is None and record.scores["grace"] == 1.0


def test_an_expected_mark_is_finer_than_the_one_said() -> None:
    reply = Completion("4", weights={"1": 0.0, "2": 0.0, "3": 0.4, "4": 0.6, "5": 0.0})
    generate = Scripted(in_turn(reply))
    gate = Judge(min=4, expected=True)
    prepared = asyncio.run(gate.prepare(RECORD, generate))
    assert prepared.record.scores["judge"] == pytest.approx(3.6)
    drop = gate.decide(prepared)
    assert drop is not None and drop.reason == "judge:low"
    assert generate.calls[0].sampling["weigh"] == ("1", "2", "3", "4", "5")


def panel(replies: dict[str, str], **fields: object) -> tuple[Record, Drop | None]:
    gate = Judge(judges=tuple(replies), **fields)  # type: ignore[arg-type] # by name
    prepared = asyncio.run(gate.prepare(RECORD, Scripted(lambda role, prompt, sampling: replies[role])))
    return prepared.record, gate.decide(prepared)


MARKS = {"judge": "Score: 5", "strict": "No. Score: 1", "kind": "Score: 4"}


def test_a_panel_is_the_mean_the_median_or_the_majority_of_its_marks() -> None:
    record, drop = panel(MARKS, min=4)
    assert record.scores["judge"] == pytest.approx(10 / 3) and record.scores["judge.strict"] == 1
    assert drop == Drop(
        "judge:low",
        {"score": record.scores["judge"], "min": 4, "rationale": "No.", "marks": {"judge": 5, "strict": 1, "kind": 4}},
    )
    record, drop = panel(MARKS, min=4, vote="median")
    assert record.scores["judge"] == 4 and drop is None
    record, drop = panel(MARKS, min=4, vote="majority")
    assert record.scores["judge"] == pytest.approx(2 / 3) and drop is None
    assert panel(MARKS, min=5, vote="majority")[1] is not None


def test_one_of_a_panel_may_fail_and_half_of_it_may_not() -> None:
    record, drop = panel({**MARKS, "strict": "Well."}, min=4)
    assert record.scores["judge"] == 4.5 and "judge.strict" not in record.scores and drop is None
    with pytest.raises(ParseError):
        panel({"judge": "Score: 5", "strict": "Well."}, min=4)
    record, drop = panel({**MARKS, "strict": "Well.", "kind": "Score: 1"}, min=4, vote="majority")
    assert drop is not None  # one of three is none, though it is half of those that spoke


@pytest.mark.parametrize(
    "fields",
    [
        {"expected": True, "high": 10},
        {"expected": True, "half": True},
        {"judges": ()},
        {"judges": ("judge", "judge")},
        {"vote": "majority"},
    ],
)
def test_a_panel_that_cannot_vote_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Judge(**fields)  # type: ignore[arg-type] # by name
