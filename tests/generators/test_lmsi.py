"""LMSI: votes over chains, every chain of the majority, four formats."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import BadRequest, ConfigError
from kdaug.generators.lmsi import FORMATS, Lmsi
from kdaug.record import Discarded, Record, system, text_of, user
from kdaug.teacher import Completion

QUESTION = Record(prompt=user("How many legs have two dogs?"))
FOUR, FIVE, NONE = "Two twos.\nAnswer: 4", "I guess.\nAnswer: 5", "I do not know."
CHAINS = ("First: 2 * 2.\nAnswer: 4", "Answer: 4.0", FIVE, NONE, "Twice two is four.\nAnswer: 4 legs")


def run(*replies: Any, record: Record = QUESTION, **fields: Any) -> tuple[list[Record], list[Discarded], Scripted]:
    generate = Scripted(in_turn(*replies))
    made = asyncio.run(Lmsi(samples=len(replies), **fields)([record], generate, Random(0)))
    return [m for m in made if isinstance(m, Record)], [m for m in made if isinstance(m, Discarded)], generate


def test_the_fixture_three_chains_of_five_in_four_formats() -> None:
    kept, turned_down, _ = run(*CHAINS)
    assert len(kept) == 12 and {record.scores["confidence"] for record in kept} == {3 / 5}
    assert [d.drop.reason for d in turned_down] == ["lmsi:outvoted", "lmsi:no_answer"]
    assert [record.by for record in kept[:4]] == [f"lmsi/{name}" for name in FORMATS]


def test_the_four_formats() -> None:
    kept, _, generate = run(FOUR)
    few_chain, few_direct, zero_chain, zero_direct = kept
    assert text_of(few_chain.completion) == text_of(zero_chain.completion) == FOUR
    assert text_of(few_direct.completion) == text_of(zero_direct.completion) == "4"
    assert zero_direct.prompt == QUESTION.prompt
    assert zero_chain.prompt[-1].content.startswith(QUESTION.instruction) and len(zero_chain.prompt) == 1
    assert few_chain.prompt[-1] == few_direct.prompt[-1] == QUESTION.prompt[-1]
    assert "Answer: 31" in few_chain.prompt[1].content and few_direct.prompt[1].content == "31"
    assert generate.calls[0].messages[:-1] == few_chain.prompt[:-1]


def test_of_a_tie_the_first_seen_wins() -> None:
    kept, turned_down, _ = run(FOUR, FIVE)
    assert {text_of(r.completion) for r in kept if r.by.endswith("direct")} == {"4"}
    assert turned_down[0].drop.detail == {"answer": "5", "majority": "4"}


def test_unsure_questions_are_kept_unless_that_is_asked_for() -> None:
    replies = (FOUR, FIVE, NONE, NONE, NONE)
    assert len(run(*replies)[0]) == 4
    kept, turned_down, _ = run(*replies, min_confidence=0.3)
    assert not kept and "lmsi:unsure" in [d.drop.reason for d in turned_down]


def test_a_failed_a_cut_and_an_empty_chain_lower_the_confidence() -> None:
    cut = Completion(FOUR, finish_reason="length")
    kept, turned_down, _ = run(FOUR, FOUR, BadRequest("no"), cut, "")
    assert {record.scores["confidence"] for record in kept} == {2 / 5} and len(kept) == 8
    assert [d.drop.reason for d in turned_down] == ["teacher:bad_request", "lmsi:cut", "lmsi:empty"]


def test_nobody_says_anything() -> None:
    kept, turned_down, _ = run(NONE, NONE)
    assert not kept and [d.drop.reason for d in turned_down] == ["lmsi:no_answer"] * 2


def test_a_system_message_stays_first() -> None:
    record = Record(prompt=(*system("Be brief."), *user("2 + 2?")))
    kept, _, generate = run(FOUR, record=record)
    assert all(r.prompt[0] == record.prompt[0] for r in kept)
    assert [m.role for m in generate.calls[0].messages[:2]] == ["system", "user"]


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"min_confidence": 2.0}, {"formats": ("haiku",)}, {"formats": ()}])
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Lmsi(**wrong)
