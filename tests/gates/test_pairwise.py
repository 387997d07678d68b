"""The pairwise gate keeps what a judge confirms in both orders."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.gates.pairwise import Pairwise
from kdaug.record import Drop, Record, assistant, user

PAIR = Record(prompt=user("Name a river."), completion=assistant("The Rhine."), rejected=assistant("Berlin."))


def judged(gate: Pairwise, *replies: str, record: Record = PAIR) -> tuple[float | None, Drop | None]:
    prepared = asyncio.run(gate.prepare(record, Scripted(in_turn(*replies))))
    return prepared.record.scores.get("pairwise"), gate.decide(prepared)


def test_what_the_judge_confirms_is_kept() -> None:
    assert judged(Pairwise(), "Verdict: A", "Verdict: B") == (1.0, None)


def test_a_turned_verdict_is_a_tie_and_is_told() -> None:
    score, drop = judged(Pairwise(), "It is first.\nVerdict: A", "Verdict: A")
    assert score == 0.5 and drop is not None
    assert drop.reason == "pairwise:unconfirmed"
    assert drop.detail == {"score": 0.5, "orders": [1.0, 0.0], "rationale": "It is first. Verdict: A"}
    assert judged(Pairwise(min=0.5), "Verdict: A", "Verdict: A") == (0.5, None)


def test_a_panel_is_the_mean_of_those_that_have_a_verdict() -> None:
    gate = Pairwise(min=0.5, judges=("judge", "b", "c"))
    replies = ("Verdict: A", "Verdict: B", "Verdict: B", "Verdict: A", "Well.", "Verdict: A")
    assert judged(gate, *replies)[0] == 0.5
    with pytest.raises(ParseError):
        judged(gate, "Verdict: A", "Verdict: B", "Well.", "Well.", "Well.", "Verdict: A")


def test_what_is_no_pair_is_dropped_unasked() -> None:
    alone = Record(prompt=PAIR.prompt, completion=PAIR.completion)
    assert judged(Pairwise(), record=alone) == (None, Drop("pairwise:no_pair"))


@pytest.mark.parametrize("fields", [{"min": 2}, {"min": -1}, {"judges": ()}])
def test_wrong_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Pairwise(**fields)  # type: ignore[arg-type] # by name
