"""Best of n: ties, marks that are missing, margins, and every scorer."""

from __future__ import annotations

import asyncio
from itertools import count
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import ConfigError
from kdaug.generators.best_of_n_preference import BestOfN
from kdaug.record import Discarded, Messages, Record, text_of, user
from kdaug.teacher import Completion

ASKED = Record(prompt=user("Name a river."))


def run(*marks: Any, seed: int = 0, **fields: Any) -> tuple[list[Record], list[Discarded], Scripted]:
    """One sample for each mark: "answer 0", …; a mark is what its judge replies."""
    numbers = count()

    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        if role == "student":
            return f"answer {next(numbers)}"
        return marks[int(prompt.rpartition("answer ")[2].split()[0])]

    generate = Scripted(reply)
    made = asyncio.run(BestOfN(samples=len(marks), **fields)([ASKED], generate, Random(seed)))
    return [m for m in made if isinstance(m, Record)], [m for m in made if isinstance(m, Discarded)], generate


def marked(*scores: int) -> list[str]:
    return [f"Reasons.\nScore: {score}" for score in scores]


def test_the_best_and_the_worst_are_the_pair() -> None:
    (pair,), turned_down, _ = run(*marked(2, 4, 4, 1))
    assert (text_of(pair.completion), text_of(pair.rejected)) == ("answer 1", "answer 3")
    assert pair.scores == {"best_of_n": 4.0, "margin": 3.0} and not turned_down and pair.prompt == ASKED.prompt


def test_all_equal_is_a_tie() -> None:
    kept, (tie,), _ = run(*marked(3, 3, 3))
    assert not kept and tie.drop.reason == "best_of_n_preference:tie" and tie.record.kind == "preference"


def test_what_has_no_mark_takes_no_part() -> None:
    (pair,), (left,), _ = run("no mark", *marked(2, 3))
    assert text_of(pair.completion) == "answer 2" and left.drop.reason == "best_of_n_preference:unscored"
    kept, turned_down, _ = run("no mark", *marked(2))
    reasons = [d.drop.reason for d in turned_down]
    assert not kept and reasons == ["best_of_n_preference:unscored", "best_of_n_preference:single"]


def test_the_margin_may_be_met_exactly() -> None:
    assert run(*marked(2, 4), min_margin=2.0)[0]
    kept, (small,), _ = run(*marked(2, 4), min_margin=2.5)
    assert not kept and small.drop.reason == "best_of_n_preference:margin" and small.drop.detail["scores"] == [2.0, 4.0]


def test_all_pairs() -> None:
    assert len(run(*marked(1, 2, 3, 4), how="all")[0]) == 6


def test_the_best_alone() -> None:
    (best,), (other,), _ = run(*marked(2, 4), keep="best")
    assert text_of(best.completion) == "answer 1" and best.kind == "completion" and best.scores == {"best_of_n": 4.0}
    assert other.drop.reason == "best_of_n_preference:not_best"


def test_direct_marks_are_expected_values() -> None:
    even = Completion("5", weights={str(n): 0.1 for n in range(1, 11)})
    high = Completion("10", weights={"10": 1.0})
    (pair,), _, generate = run(even, high, scorer="direct")
    assert pair.scores == {"best_of_n": 1.0, "margin": pytest.approx(1.0)}
    assert generate.calls[-1].sampling["weigh"] == tuple(str(n) for n in range(1, 11))


def test_a_reward_model_may_score() -> None:
    class Rewards:
        async def __call__(self, prompt: Messages, answer: Messages) -> list[float] | None:
            return {"answer 0": None, "answer 1": [0.25], "answer 2": [-1.0]}[text_of(answer)]

    generator = BestOfN(samples=3, scorer="reward", model="rm")
    object.__setattr__(generator, "_model", Rewards())
    numbers = count()
    generate = Scripted(lambda role, prompt, sampling: f"answer {next(numbers)}")
    left, pair = asyncio.run(generator([ASKED], generate, Random(0)))
    assert isinstance(pair, Record) and pair.scores == {"best_of_n": 0.25, "margin": 1.25}
    assert isinstance(left, Discarded) and left.drop.reason == "best_of_n_preference:unscored"
    assert generator.roles == ("student",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 1},
        {"judgements": 0},
        {"scorer": "coin"},
        {"keep": "all"},
        {"how": "worst"},
        {"scorer": "reward"},
        {"model": "rm"},
        {"min_margin": -1.0},
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BestOfN(**wrong)
