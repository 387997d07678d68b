"""SPIN: the dataset's answer against the student's own."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from scripted import Scripted, in_turn

from kdaug.generators.spin import Spin
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion

PAIR = Record(prompt=user("Name a river."), completion=assistant("The Rhine."), teachers=("openai:gpt-x",))


def run(record: Record, *answers: str | Completion) -> tuple[Record | Discarded, Scripted]:
    generate = Scripted(in_turn(*answers))
    (made,) = asyncio.run(Spin()([record], generate, Random(0)))
    return made, generate


def test_the_datasets_answer_is_preferred() -> None:
    made, generate = run(PAIR, "The Alps.")
    assert isinstance(made, Record) and made.kind == "preference" and made.prompt == PAIR.prompt
    assert (text_of(made.completion), text_of(made.rejected)) == ("The Rhine.", "The Alps.")
    assert made.teachers == ("openai:gpt-x", "scripted-student")
    (call,) = generate.calls
    assert call.role == "student" and call.sampling == {"temperature": 1.0, "top_p": 1.0, "max_tokens": 256}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("The \nRhine. ", "spin:identical"),
        (Completion("The Rhine flows", finish_reason="length"), "spin:cut"),
        (" \n", "spin:empty"),
    ],
)
def test_what_makes_no_pair(reply: str | Completion, reason: str) -> None:
    made, _ = run(PAIR, reply)
    assert isinstance(made, Discarded) and made.drop.reason == reason


def test_a_prompt_alone_asks_nobody() -> None:
    made, generate = run(Record(prompt=user("Name a river.")))
    assert isinstance(made, Discarded) and made.drop.reason == "spin:no_answer" and not generate.calls
