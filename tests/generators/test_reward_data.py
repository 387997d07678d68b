"""Reward data: marks, comparisons in both orders, and that the reward trainer can read what is kept."""

from __future__ import annotations

import asyncio
from itertools import count
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import ConfigError
from kdaug.generators.reward_data import RewardData
from kdaug.record import Discarded, Record, text_of, user

ASKED = Record(prompt=user("Name a river."))


def run(marks: dict[str, Any], better: Any, **fields: Any) -> tuple[list[Record], list[Discarded], Scripted]:
    """Members answer with their name and a number; `better(first, second)` is the verdict."""
    numbers = count()

    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        if role != "judge":
            return f"{role}{next(numbers)}"
        if "Verdict: A" in prompt:
            first, second = (prompt.rpartition(f"Answer {x}:\n")[2].split()[0] for x in "AB")
            return f"Reasons.\nVerdict: {better(first, second)}"
        return marks[prompt.rpartition("Answer:\n")[2].split()[0]]

    generate = Scripted(reply)
    generator = RewardData(samples=1, judgements=1, **fields)
    made = asyncio.run(generator([ASKED], generate, Random(0)))
    return [m for m in made if isinstance(m, Record)], [m for m in made if isinstance(m, Discarded)], generate


MARKS = {"student0": "Score: 4", "teacher1": "Score: 9"}


def by_name(first: str, second: str) -> str:
    return "A" if first.startswith("teacher") else "B"


def test_a_confirmed_pair_has_its_margin_and_its_probability() -> None:
    (pair,), turned_down, generate = run(MARKS, by_name)
    assert (text_of(pair.completion), text_of(pair.rejected)) == ("teacher1", "student0") and not turned_down
    assert pair.scores == {"reward": 9.0, "margin": 5.0, "preference": 1.0}
    assert len(generate.calls) == 2 + 2 + 2


@pytest.mark.parametrize(
    ("better", "reason"),
    [
        (lambda first, second: "A", "reward_data:unclear"),  # it likes the first place
        (lambda first, second: "tie", "reward_data:unclear"),
        (lambda first, second: "A" if first.startswith("student") else "B", "reward_data:contradicted"),
        (lambda first, second: "nobody", "parse:verdict"),
    ],
)
def test_what_the_comparison_does_not_confirm(better: Any, reason: str) -> None:
    kept, (left,), _ = run(MARKS, better)
    assert not kept and left.drop.reason == reason and left.record.kind == "preference"


def test_one_order_of_two_is_three_quarters() -> None:
    (pair,), _, _ = run(MARKS, lambda first, second: "A" if first.startswith("teacher") else "tie")
    assert pair.scores["preference"] == 0.75


def test_every_pair_of_unequal_marks() -> None:
    marks = {"a0": "Score: 4", "b1": "Score: 9", "c2": "Score: 4", "d3": "none"}
    kept, turned_down, _ = run(marks, lambda first, second: "A" if first == "b1" else "B", members=("a", "b", "c", "d"))
    assert {(text_of(p.completion), text_of(p.rejected)) for p in kept} == {("b1", "a0"), ("b1", "c2")}
    assert [d.drop.reason for d in turned_down] == ["reward_data:unscored"]


@pytest.mark.parametrize("wrong", [{"members": ()}, {"members": ("a",), "samples": 1}, {"judgements": 0}, {"low": 10}])
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RewardData(**wrong)
