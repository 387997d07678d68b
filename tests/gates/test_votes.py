"""Self-consistency: what agrees with most samples is kept; who says nothing votes for nobody."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import BadRequest, ConfigError
from kdaug.gates.votes import Votes, ballots
from kdaug.record import Drop, Record, assistant, user
from kdaug.teacher import Completion


def vote(answer: str | None, *said: str | Completion | Exception, least: float = 0.5) -> tuple[Drop | None, float]:
    gate = Votes(samples=len(said), min=least)
    record = Record(prompt=user("2 + 2?"), completion=None if answer is None else assistant(answer))
    prepared = asyncio.run(gate.prepare(record, Scripted(in_turn(*said))))
    return gate.decide(prepared), prepared.record.scores.get("votes", 0.0)


def test_the_fixture_of_lmsi() -> None:
    """answers [4, 4, 5, none, 4]: majority 4, confidence 3/5."""
    said = ("Answer: 4", "So the answer is 4.", "Answer: 5", "  ", "I think. #### 4")
    assert vote("The answer is 4", *said) == (None, 3 / 5)
    drop, share = vote("Answer: 5", *said)
    assert drop == Drop("votes:minority", {"share": 0.6, "winner": "4", "answer": "5"}) and share == 0.6


def test_no_majority_no_vote_and_no_answer() -> None:
    drop, _ = vote("4", "4", "5", "6", Completion("4", finish_reason="length"))
    assert drop and drop.reason == "votes:split"
    drop, _ = vote("4", " ", Completion("4", finish_reason="length"), BadRequest("no"))
    assert drop and drop.reason == "votes:none"
    assert vote(None, "4", "4", "5") == (None, 2 / 3)
    assert vote("4", "4", BadRequest("no"), "4") == (None, 2 / 3)
    with pytest.raises(BadRequest):
        vote("4", BadRequest("no"), BadRequest("no"))
    with pytest.raises(ConfigError, match="two samples at least"):
        Votes(samples=1)


@pytest.mark.parametrize("answer", ["2", "3", None])
@pytest.mark.parametrize("said", [("2", "3", "2", "3"), ("3", "2", "3", "2"), ("3", "2", "2", "3"), ("3", "2", " ")])
def test_a_tie_has_no_winner_in_whatever_order(answer: str | None, said: tuple[str, ...]) -> None:
    drop, share = vote(answer, *said, least=1 / 3)
    assert drop and drop.reason == "votes:tie" and share in (0.5, 1 / 3)


def test_equal_answers_are_one_ballot_whatever_they_look_like() -> None:
    assert ballots(["The answer is not 4.", "The answer is not 4.", "4"]) == [None, None, 2]
    assert ballots(["Answer: 1/2", None, "Answer: 0.5", "Answer: Paris", "the answer is paris."]) == [0, None, 0, 3, 3]
