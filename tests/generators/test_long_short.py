"""Long traces: the longest right one, without circles. Long to short: the shortest right one."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from scripted import Scripted, in_turn

from kdaug.generators.long_reasoning import LongReasoning, loops
from kdaug.generators.long_to_short import LongToShort
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion

RECORD = Record(prompt=user("What is 17 + 25?"), completion=assistant("#### 42"))
RIGHT, LONGER, WRONG = (
    "Add.\nAnswer: 42",
    "First seven and five, then the tens.\nAnswer: 42",
    "Hm, so, it is this.\nAnswer: 41",
)


def make(generator: Any, *replies: Any, record: Record = RECORD) -> list[Any]:
    return list(asyncio.run(generator([record], Scripted(in_turn(*replies)), Random(0))))


def reasons(made: list[Any]) -> list[str]:
    return [m.drop.reason.partition(":")[2] for m in made if isinstance(m, Discarded)]


def test_the_longest_right_trace() -> None:
    circle = "So we add seven and five and carry one over. " * 4 + "\nAnswer: 42"
    made = make(LongReasoning(6), RIGHT, LONGER, WRONG, circle, "42", Completion("Add", finish_reason="length"))
    assert text_of(made[0].completion) == "<think>\nFirst seven and five, then the tens.\n</think>\n\nAnswer: 42"
    assert reasons(made) == ["cut", "wrong", "loops", "no_thought", "shorter"]
    assert made[0].prompt == RECORD.prompt


def test_of_equally_long_ones_the_first_stays_and_the_others_are_a_tie() -> None:
    left, right, long = "Add them.\nAnswer: 42", "Sum up.\nAnswer: 42", "Add them up.\nAnswer: 42"
    made = make(LongReasoning(3), "Add.\nAnswer: 42", left, right)
    assert "Add them." in text_of(made[0].completion) and reasons(made) == ["shorter", "tie"]
    made = make(LongToShort(3), long, left, right)
    assert text_of(made[0].completion) == left and reasons(made) == ["longer", "tie"]


def test_reasoning_that_is_given_apart() -> None:
    (made,) = make(LongReasoning(1), Completion("It is 42.\nAnswer: 42", reasoning="Seven and five."))
    assert text_of(made.completion) == "<think>\nSeven and five.\n</think>\n\nIt is 42.\nAnswer: 42"


def test_circles() -> None:
    run = "one two three four five six seven eight "
    assert loops(run * 4) and not loops(run * 3) and not loops("")


def test_the_shortest_right_trace() -> None:
    made = make(LongToShort(4), LONGER, WRONG, RIGHT, "So, well.\nAnswer: 42")
    assert text_of(made[0].completion) == RIGHT and reasons(made) == ["longer", "longer", "wrong"]
    assert reasons(make(LongToShort(2), WRONG, WRONG)) == ["wrong", "duplicate"]


def test_thought_counts_as_length() -> None:
    made = make(LongToShort(2), Completion("Answer: 42", reasoning="Long it is, this thought."), RIGHT)
    assert text_of(made[0].completion) == RIGHT


def test_preferences() -> None:
    made = make(LongToShort(4, mode="pairs"), LONGER, WRONG, RIGHT, "So, add.\nAnswer: 42")
    pairs = [(text_of(m.completion), text_of(m.rejected)) for m in made if isinstance(m, Record)]
    assert pairs == [(RIGHT, LONGER), (RIGHT, WRONG)] and reasons(made) == ["no_pair"]
    (made,) = [m for m in make(LongToShort(2, mode="pairs"), RIGHT, RIGHT) if "pair" in m.drop.reason]
    assert isinstance(made, Discarded)


def test_no_reference() -> None:
    for generator in (LongReasoning(), LongToShort()):
        assert reasons(make(generator, record=Record(prompt=user("a")))) == ["no_reference"]
