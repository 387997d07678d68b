"""Self-Align: every filter on planted strings; no principle and no thought is in a record."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.erasure import PromptEraser
from kdaug.generators.self_align import SelfAlign, exemplar, trimmed
from kdaug.prompts import listed
from kdaug.record import Discarded, Record, text_of, user
from kdaug.teacher import Completion

ASKED = Record(prompt=user("Why does bread rise in the oven?"))
THOUGHTS = "Thoughts: principle 2 (informative) applies, as this asks for a reason.\n"
PRINCIPLES = dict(listed("self_align/principles"))
LONG = "Yeast makes gas. " + " ".join(f"Gas {n} lifts the dough a little." for n in range(6))


def run(reply: Any) -> Any:
    generate = Scripted(in_turn(reply))
    (made,) = asyncio.run(SelfAlign()([ASKED], generate, Random(0)))
    for text in PRINCIPLES.values():
        assert text in generate.calls[0].prompt
    return made


def test_the_record_has_neither_principles_nor_thoughts() -> None:
    made = run(THOUGHTS + "Answer: Yeast makes gas, and the gas lifts the dough.")
    assert made.prompt == ASKED.prompt
    assert text_of(made.completion) == "Yeast makes gas, and the gas lifts the dough."
    assert PromptEraser(PRINCIPLES).leak(made) is None


def test_there_are_sixteen_principles_and_five_exemplars() -> None:
    assert len(PRINCIPLES) == 16
    assert len([exemplar(line) for line in listed("self_align/exemplars")]) == 5


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Yeast makes gas.", "self_align:form"),
        (THOUGHTS + "Yeast makes gas.", "self_align:form"),
        ("Answer: gas\n" + THOUGHTS, "self_align:form"),
        ("Hello! " + THOUGHTS + "Answer: gas", "self_align:form"),
        (THOUGHTS + "Answer:", "self_align:form"),
        (THOUGHTS + "Answer: Gas lifts it.\nUser: And why is it brown?", "self_align:short"),
        (Completion(THOUGHTS + "Answer: Yeas", finish_reason="length"), "self_align:empty"),
        (THOUGHTS + "Answer: why does bread rise in the oven? Because of gas.", "self_align:copied"),
        (THOUGHTS + "Answer: By principle 2, it is gas.", "self_align:thoughts"),
        (THOUGHTS + "Answer: I admit it and do not invent an answer: gas.", "self_align:leak"),
        (THOUGHTS + "Answer: Fifteen tiles lie along the three metres of dough.", "self_align:leak"),
    ],
)
def test_what_is_discarded(reply: Any, reason: str) -> None:
    made = run(reply)
    assert isinstance(made, Discarded) and made.drop.reason == reason


def test_an_answer_ends_before_the_next_turn_of_the_user() -> None:
    made = run(f"{THOUGHTS}Answer: {LONG}\n\n**User:** And?\nAnswer it.")
    assert text_of(made.completion) == LONG


@pytest.mark.parametrize(
    ("text", "cut", "left"),
    [
        ("Gas lifts the dou", True, "Gas lifts the"),
        ("Gas lifts the dough.", False, "Gas lifts the dough."),
        ("One. Two. one. Three.", False, "One. Two."),
        ("One.\nTwo\nTwo\nThree", False, "One.\nTwo"),
    ],
)
def test_what_is_trimmed(text: str, cut: bool, left: str) -> None:
    assert trimmed(text, cut) == (left, None)


def test_trimming_twice_is_trimming_once() -> None:
    once, _ = trimmed(LONG + "\nUser: x", False)
    assert trimmed(once, False) == (once, None)
