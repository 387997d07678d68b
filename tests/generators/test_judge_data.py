"""Judge data: an answer of each mark, feedback that fits it, and a judge who agrees."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ParseError, Refused
from kdaug.generators.judge_data import JudgeData
from kdaug.judging import parse_score
from kdaug.record import Discarded, Record, text_of, user

RECORD = Record(prompt=user("Name three rivers."))
RUBRIC = json.dumps(
    {"criterion": "Are they rivers?", "levels": [f"level {n}" for n in range(1, 6)], "reference": "Rhine."}
)


def answer(response: str, feedback: str = "Fine as it is.") -> str:
    return json.dumps({"response": response, "feedback": feedback})


def make(*replies: Any, tolerance: float | None = None) -> tuple[list[Record | Discarded], Scripted]:
    generate = Scripted(in_turn(*replies))
    return list(asyncio.run(JudgeData(tolerance)([RECORD], generate, Random(0)))), generate


def test_one_answer_of_each_mark() -> None:
    made, generate = make(RUBRIC, *[answer(f"River {n}.") for n in range(5)])
    assert [parse_score(text_of(m.completion), 1, 5) for m in made if isinstance(m, Record)] == [1, 2, 3, 4, 5]
    first = made[0]
    assert isinstance(first, Record) and "River 0." in text_of(first.prompt) and "level 3" in text_of(first.prompt)
    assert text_of(first.completion) == "Fine as it is.\nScore: 1" and len(first.replies) == 2
    assert "exactly the mark 2" in generate.prompts[2]


def test_what_is_no_item() -> None:
    made, _ = make(
        RUBRIC, answer("One."), answer("One. "), answer("This deserves a score of 3."), Refused("no"),
        answer("Five.", "Good, but 3 out of 5."),
    )  # fmt: skip
    reasons = [m.drop.reason for m in made if isinstance(m, Discarded)]
    assert reasons == ["judge_data:duplicate", "judge_data:leak", Refused("no").reason, "judge_data:contradicts"]


def test_a_blind_judge_must_agree() -> None:
    marks = [f"Hm.\nScore: {n}" for n in (3, 3, 3, 3, 3)]
    made, generate = make(RUBRIC, *[answer(f"River {n}.") for n in range(5)], *marks, tolerance=1.0)
    assert [isinstance(m, Record) for m in made] == [False, True, True, True, False]
    assert generate.calls[-1].role == "judge" and "exactly the mark" not in generate.prompts[-1]


def test_a_rubric_that_is_none() -> None:
    with pytest.raises(ParseError):
        make('{"criterion": "x", "levels": ["a"], "reference": "b"}')
