"""Lion: a referee's gap, in both orders, says what new instructions are made from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import ParseError
from kdaug.generators.lion import Lion, two_scores
from kdaug.record import Discarded, Record, text_of, user
from kdaug.teacher import Completion

SEED = Record(prompt=user("Describe how a river delta forms over thousands of years."))


class World:
    """Teacher, student and referee; `marks`: (Answer 1, Answer 2) of the two orders."""

    def __init__(
        self, marks: Sequence[Any], new: str | Completion = "Describe how a glacier carves its valley."
    ) -> None:
        self.marks, self.new = iter(marks), new

    def __call__(self, role: str, prompt: str, sampling: dict[str, Any]) -> str | Completion:
        if role == "judge":
            marks = next(self.marks)
            return marks if isinstance(marks, str) else "Well.\nAnswer 1. Score: {}\nAnswer 2. Score: {}".format(*marks)
        if role == "student":
            return "Sand piles up."
        return self.new if "Write one new task" in prompt else "Rivers carry sediment."


def run(world: World) -> tuple[Record | Discarded, Scripted]:
    generate = Scripted(world)
    (made,) = asyncio.run(Lion()([SEED], generate, Random(0)))
    return made, generate


@pytest.mark.parametrize(
    ("orders", "gap", "kind"),
    [
        ([(8, 7), (8, 7)], 0.0, "easy"),  # a referee that likes the first place: (8, 7), then (7, 8) un-swapped
        ([(9, 7), (8, 8)], 1.0, "hard"),  # exactly 1 is hard
        ([(9, 5), (4, 9)], 4.5, "hard"),
        ([(3, 9), (9, 3)], -6.0, "easy"),
    ],
)
def test_the_gap_is_the_mean_of_both_orders(orders: list[tuple[int, int]], gap: float, kind: str) -> None:
    made, generate = run(World(orders))
    assert isinstance(made, Record) and made.scores == {"gap": gap} and made.by == f"lion/{kind}"
    assert text_of(made.prompt) == "Describe how a glacier carves its valley."
    assert text_of(made.completion) == "Rivers carry sediment."
    asked = next(c for c in generate.calls if "Write one new task" in c.prompt)
    assert ("rarer" in asked.prompt) == (kind == "easy") and asked.sampling == {"temperature": 1.0, "max_tokens": 64}
    first, second = (c for c in generate.calls if c.role == "judge")
    assert first.prompt.index("Rivers carry") < first.prompt.index("Sand piles")
    assert second.prompt.index("Rivers carry") > second.prompt.index("Sand piles")
    assert first.sampling["temperature"] == 0.2


@pytest.mark.parametrize("bad", ["Answer 1. Score: 8", "Answer 1. Score: 11\nAnswer 2. Score: 3", "I like both."])
def test_an_order_without_two_marks_sets_the_prompt_aside(bad: str) -> None:
    made, generate = run(World([bad, (9, 2)]))
    assert isinstance(made, Discarded) and made.drop.reason == "lion:unjudged" and made.record == SEED
    assert not any("new task" in call.prompt for call in generate.calls)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ("Follow this instruction about rivers and lakes.", "lion:words"),
        ("Describe two rivers.", "lion:short"),
        ("- Describe how a lake forms in spring.", "lion:start"),
        ("", "lion:short"),
        (Completion("Describe how a glacier carves", finish_reason="length"), "lion:cut"),
    ],
)
def test_what_is_no_instruction(new: str | Completion, reason: str) -> None:
    made, _ = run(World([(9, 2), (2, 9)], new))
    assert isinstance(made, Discarded) and made.drop.reason == reason


def test_marks_are_read_from_ugly_replies() -> None:
    assert two_scores("**Answer 1** - Score: 8/10\n**Answer 2** - Score: 6.5") == (8.0, 6.5)
    assert two_scores("Answer 1 is good.\nAnswer 1: Score: 3\nanswer 2 score: 4\nAnswer 2: Score: 5") == (3.0, 5.0)
    with pytest.raises(ParseError):
        two_scores("Score: 3\nScore: 4")
