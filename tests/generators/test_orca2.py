"""Orca 2: the strategy is told to the teacher, and to nobody else."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.erasure import PromptEraser
from kdaug.generators.orca2 import Orca2
from kdaug.prompts import listed, render
from kdaug.record import Discarded, Record, system, text_of, user

STRATEGIES = dict(listed("orca2/strategies"))
CAUTIOUS = render("orca2/cautious")
RECORD = Record(prompt=user("How much is 3 * 14?"), meta={"category": "calculation"})


def run(record: Record, *answers: Any) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(*answers))
    (made,) = asyncio.run(Orca2()([record], generate, Random(0)))
    return made, generate


def test_the_strategy_is_in_the_call_and_not_in_the_record() -> None:
    made, generate = run(RECORD, "3 * 10 is 30, 3 * 4 is 12: 42.")
    assert STRATEGIES["calculation"] in generate.calls[0].messages[0].content
    assert made.prompt == (*system(CAUTIOUS), *RECORD.prompt) and made.by == "orca2/calculation"
    assert PromptEraser(STRATEGIES).leak(made) is None


def test_the_generic_message_holds_no_strategy() -> None:
    assert PromptEraser(STRATEGIES).find(CAUTIOUS) is None


def test_the_teacher_names_the_kind_where_the_seed_does_not() -> None:
    made, generate = run(Record(prompt=user("Tell me of Rome.")), "recall", "Rome is old.")
    assert set(generate.calls[0].sampling["schema"]) == set(STRATEGIES)
    assert STRATEGIES["recall"] in generate.calls[1].prompt and len(made.replies) == 2


def test_a_system_message_of_the_records_own_stays() -> None:
    record = Record(prompt=(*system("Answer in French."), *user("2 + 2?")), meta={"category": "direct"})
    made, generate = run(record, "Quatre.")
    assert generate.calls[0].messages[0].content == f"{STRATEGIES['direct']}\n\nAnswer in French."
    assert made.prompt[0].content == f"{CAUTIOUS}\n\nAnswer in French."


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Let me carry it out, one operation at a time, and check: 42.", "orca2:leak"),
        ("As instructed, I give the steps: 42.", "orca2:meta"),
        (" ", "orca2:empty"),
    ],
)
def test_what_leaks_is_discarded(answer: str, reason: str) -> None:
    made, _ = run(RECORD, answer)
    assert isinstance(made, Discarded) and made.drop.reason == reason
    assert text_of(made.record.completion) == answer


def test_words_of_the_task_itself_are_no_leak() -> None:
    record = Record(prompt=user("Carry it out one operation at a time: 3 * 14."), meta={"category": "calculation"})
    made, _ = run(record, "I carry it out one operation at a time: 42.")
    assert isinstance(made, Record)


def test_a_category_without_a_strategy_is_a_drop() -> None:
    made = run(Record(prompt=user("x"), meta={"category": "astrology"}))[0]
    assert isinstance(made, Discarded) and made.drop.reason == "orca2:no_strategy"
    assert made.drop.detail["category"] == "astrology"
