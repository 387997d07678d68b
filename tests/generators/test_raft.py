"""RAFT: distinct passages, an oracle that is where it is said to be, and quotes that stand in it."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError, Refused
from kdaug.generators.raft import Raft
from kdaug.record import Discarded, Record, text_of, user
from kdaug.source import WithOthers
from kdaug.teacher import Completion

PASSAGES = [f"Town number {n} has\n  {n + 10} bridges." for n in range(8)]
SEEDS = [Record(prompt=user(text)) for text in PASSAGES]
GOOD = "It says ##begin_quote## Town number 0 has 10 bridges. ##end_quote##\n<ANSWER>: 10"
QUESTION = "1. How many bridges has town 0?"


def make(*replies: Any, seed: int = 0, **how: Any) -> list[Record | Discarded]:
    generate = Scripted(in_turn(*replies))
    return list(asyncio.run(Raft(**how)(SEEDS[:5], generate, Random(seed))))


def documents(record: Record) -> list[str]:
    return [part.removeprefix("<DOCUMENT>") for part in text_of(record.prompt).split("</DOCUMENT>\n")[:-1]]


@pytest.mark.parametrize(("share", "there"), [(1.0, 40), (0.0, 0)])
def test_the_oracle_is_there_or_not(share: float, there: int) -> None:
    found = 0
    for seed in range(40):
        (made,) = make(QUESTION, GOOD, seed=seed, oracle_share=share)
        assert isinstance(made, Record)
        shown, place = documents(made), made.meta["oracle"]
        assert len(shown) == 4 == len(set(shown)) and set(shown) <= set(PASSAGES)
        found += place is not None
        if isinstance(place, int):
            assert shown[place] == PASSAGES[0]
        else:
            assert PASSAGES[0] not in shown
        assert text_of(made.completion) == GOOD and made.parents[0] == SEEDS[0].id
    assert found == there


def test_how_often_the_oracle_is_there() -> None:
    made = [make(QUESTION, GOOD, seed=seed)[0] for seed in range(300)]
    share = sum(m.meta["oracle"] is not None for m in made if isinstance(m, Record)) / 300
    assert 0.7 < share < 0.9  # 4 standard deviations round 0.8
    places = {m.meta["oracle"] for m in made if isinstance(m, Record)}
    assert places == {None, 0, 1, 2, 3}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (GOOD.replace("<ANSWER>:", "Answer:"), "raft:answer_marker"),
        (f"<ANSWER>: 10\n{GOOD}", "raft:answer_marker"),
        (GOOD.removesuffix("10"), "raft:answer_marker"),
        ("It has ten.\n<ANSWER>: 10", "raft:no_quote"),
        (GOOD.replace("has 10", "had 10"), "raft:quote"),
        (GOOD.replace("Town number 0 has 10 bridges.", "bridges."), "raft:distractor"),
        (Completion(GOOD, finish_reason="length"), "raft:cut"),
        (Refused("no"), Refused("no").reason),
    ],
)
def test_an_answer_that_is_none(answer: Any, reason: str) -> None:
    made = make("Sure!\n1. How many?\n2. ???\n3. Where?", answer, GOOD)
    assert [one.drop.reason if isinstance(one, Discarded) else None for one in made] == [reason, None, "raft:no_letter"]


def test_questions_beyond_those_asked_for_and_a_cut_one_are_drops() -> None:
    made = make("1. How many?\n2. Where?", GOOD, questions=1)
    assert [one.drop.reason if isinstance(one, Discarded) else None for one in made] == [None, "raft:surplus"]
    assert isinstance(made[1], Discarded) and text_of(made[1].record.prompt) == "Where?"
    made = make(Completion("1. How many?\n2. Whe", finish_reason="length"), GOOD)
    assert [one.drop.reason if isinstance(one, Discarded) else None for one in made] == [None, "raft:cut"]


def test_no_question_and_too_few_passages() -> None:
    with pytest.raises(ParseError):
        make("I cannot.")
    with pytest.raises(ConfigError, match="with_others"):
        make(QUESTION, GOOD, distractors=4)


def test_others_are_drawn_from_the_seed_s_own_side() -> None:
    held = {SEEDS[0].id, SEEDS[1].id, SEEDS[2].id}
    source, rng = WithOthers(SEEDS, count=2).start(held), Random(0)
    draws = []
    while (draw := source.draw(rng)) is not None:
        draws.append(draw)
    assert [draw[0].id for draw in draws] == [seed.id for seed in SEEDS]
    for first, *others in draws:
        assert len({first.id, *(o.id for o in others)}) == 3
        assert {o.id in held for o in others} == {first.id in held}
