"""Texts for classifiers: rephrased (AugGPT) and made from a label (ZeroGen)."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ParseError
from kdaug.generators.aug_gpt import AugGpt
from kdaug.generators.zero_gen import ZeroGen
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion

TASK, TEXT = "Is it positive or negative?", "The soup was cold."
SEED = Record(
    prompt=user(f"{TASK}\n\n{TEXT}"), completion=assistant("negative"), meta={"instruction": TASK, "input": TEXT}
)
LABEL = Record(
    prompt=user(TASK), completion=assistant("negative"), meta={"instruction": TASK, "describes": "A guest tells."}
)


def make(generator: Any, record: Record, reply: Any) -> tuple[list[Record | Discarded], Scripted]:
    generate = Scripted(in_turn(reply))
    return list(asyncio.run(generator([record], generate, Random(0)))), generate


def reasons(made: list[Record | Discarded]) -> list[str]:
    return [m.drop.reason for m in made if isinstance(m, Discarded)]


def test_a_rephrasing_keeps_task_and_label() -> None:
    reply = "1. Cold soup, it was.\n2. the soup was  cold\n3. **Cold soup it was!**\n4. A negative visit: cold soup."
    made, _ = make(AugGpt(), SEED, reply)
    first = made[0]
    assert isinstance(first, Record) and text_of(first.prompt) == f"{TASK}\n\nCold soup, it was."
    assert text_of(first.completion) == "negative" and first.meta == {
        "instruction": TASK,
        "input": "Cold soup, it was.",
    }
    assert reasons(made) == ["aug_gpt:copy", "aug_gpt:duplicate", "aug_gpt:label"]


def test_texts_of_a_label() -> None:
    made, generate = make(
        ZeroGen(), LABEL, "Sure:\n1) We waited an hour for nothing.\n2) Bad.\n3) My review is negative."
    )
    first = made[0]
    assert isinstance(first, Record) and text_of(first.prompt) == f"{TASK}\n\nWe waited an hour for nothing."
    assert first.kind == "completion" and reasons(made) == ["zero_gen:short", "zero_gen:label"]
    assert "A guest tells." in generate.prompts[0] and generate.calls[0].sampling["top_p"] == 0.9


@pytest.mark.parametrize("generator", [AugGpt(), ZeroGen()])
def test_no_text(generator: Any) -> None:
    for reply in ("I cannot.", Completion("1. We waited an", finish_reason="length")):
        with pytest.raises(ParseError):
            make(generator, SEED, reply)
    made = list(asyncio.run(generator([Record(prompt=user("a"))], Scripted(in_turn()), Random(0))))
    assert reasons(made) == [f"{generator.name}:no_label"]
