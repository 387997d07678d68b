"""Orca: which system messages a task may get, that they stay in the record, and whom a subset is asked again."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import ConfigError
from kdaug.generators.orca import Orca, eligible, is_multiple_choice
from kdaug.prompts import listed
from kdaug.record import Discarded, Record, text_of, user
from kdaug.teacher import Completion

CHOICE = "Which is a planet?\n(A) Mars\n(B) the Moon\n"


def run(record: Record, seed: int = 0, reply: Any = "Because.", **fields: Any) -> tuple[list[Any], Scripted]:
    generate = Scripted(lambda role, prompt, sampling: reply)
    return list(asyncio.run(Orca(**fields)([record], generate, Random(seed)))), generate


def test_there_are_sixteen_messages_one_is_empty_and_two_are_for_choices() -> None:
    kinds = Counter(kind for kind, _ in listed("orca/messages"))
    assert sum(kinds.values()) == 16 and kinds["choice"] == 2
    assert [text for _, text in listed("orca/messages")].count("") == 1


def test_which_messages_a_task_may_get() -> None:
    open_, choice = Record(prompt=user("Why is the sky blue?")), Record(prompt=user(CHOICE))
    task = Record(prompt=user("Why?"), meta={"collection": "task"})
    assert set(eligible(choice)) - set(eligible(open_)) == {
        t for kind, t in listed("orca/messages") if kind == "choice"
    }
    assert set(eligible(task)) - set(eligible(open_)) == {t for kind, t in listed("orca/messages") if kind == "task"}


@pytest.mark.parametrize("text", [CHOICE, "Pick.\nA. one\nB. two", "Choose.\nOptions:\n- one\n- two", "(a) x\n(b) y"])
def test_multiple_choice(text: str) -> None:
    assert is_multiple_choice(text)


@pytest.mark.parametrize("text", ["A. Lincoln was who?", "What are my options?", "I see: a plan."])
def test_no_choice(text: str) -> None:
    assert not is_multiple_choice(text)


def test_the_message_that_was_told_is_the_one_that_is_kept_and_it_varies() -> None:
    found = set()
    for seed in range(60):
        (made,), generate = run(Record(prompt=user("Why?")), seed)
        assert made.prompt == generate.calls[0].messages
        assert text_of(made.completion) == "Because." and made.prompt[-1].content == "Why?"
        found.add(made.prompt[:-1])
    assert len(found) == len(eligible(Record(prompt=user("Why?"))))
    assert () in found  # the empty one: no system message


def test_what_the_senior_answers_is_a_subset_of_the_same_queries() -> None:
    both = 0
    for seed in range(200):
        made, _ = run(Record(prompt=user("Why?")), seed, share=0.2)
        assert made[0].by == "orca"
        if len(made) == 2:
            both += 1
            assert made[1].by == "orca/senior" and made[1].prompt == made[0].prompt
            assert made[1].teachers == ("scripted-senior",)
    assert 20 <= both <= 60


def test_a_cut_answer_is_discarded() -> None:
    (made,), _ = run(Record(prompt=user("Why?")), reply=Completion("Bec", finish_reason="length"))
    assert isinstance(made, Discarded) and made.drop.reason == "orca:cut"


def test_a_wrong_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="share"):
        Orca(share=2)
    assert Orca().roles == ("teacher",) and Orca(share=0.1).roles == ("teacher", "senior")
