"""ALMoST: the partial order of the arms, and what speaks against an assumption."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import BadRequest, ConfigError
from kdaug.generators.almost import Almost, Arm
from kdaug.record import Discarded, Record, text_of, user
from kdaug.teacher import Completion

ASKED = Record(prompt=user("Why is the sky blue?"))


def run(answers: Any, **fields: Any) -> tuple[list[Record], list[Discarded], Scripted]:
    """`answers(role, shots)` is what an arm says."""
    generate: Scripted = Scripted(lambda role, prompt, sampling: answers(role, prompt.count("\n\nassistant: ")))
    made = asyncio.run(Almost(**fields)([ASKED], generate, Random(0)))
    return [m for m in made if isinstance(m, Record)], [m for m in made if isinstance(m, Discarded)], generate


def test_pairs_respect_the_partial_order_and_only_it() -> None:
    kept, turned_down, generate = run(lambda role, shots: f"{role} {shots}")
    found = {(text_of(p.completion), text_of(p.rejected)) for p in kept}
    assert found == {
        ("teacher 3", "teacher 0"),
        ("teacher 3", "student 3"),
        ("teacher 3", "student 0"),
        ("teacher 0", "student 0"),
        ("student 3", "student 0"),
    }  # teacher 0 and student 3 are incomparable
    assert not turned_down and len(generate.calls) == 4
    assert all(pair.prompt == ASKED.prompt for pair in kept)


def test_the_order_is_one() -> None:
    generator = Almost(models=("a", "b", "c"), shots=(0, 1, 3))
    arms = generator.arms
    assert len(arms) == 9 and not any(generator.better(arm, arm) for arm in arms)
    for one in arms:
        for other in arms:
            assert not (generator.better(one, other) and generator.better(other, one))
            for third in arms:
                if generator.better(one, other) and generator.better(other, third):
                    assert generator.better(one, third)
    assert generator.better(Arm("a", 1), Arm("b", 1)) and not generator.better(Arm("a", 0), Arm("c", 1))


def test_length_may_speak_against_it() -> None:
    kept, (left,), _ = run(lambda role, shots: "so" if shots else "so it is said", models=("teacher",))
    assert not kept and left.drop.reason == "almost:disagreement" and left.drop.detail == {"words": [1, 4]}
    kept, _, _ = run(lambda role, shots: "so it" if shots else "so it is said", models=("teacher",))
    assert len(kept) == 1  # exactly half is enough


def test_what_makes_no_pair() -> None:
    _, turned_down, _ = run(lambda role, shots: "same", models=("teacher",))
    assert [d.drop.reason for d in turned_down] == ["almost:identical"]
    cut = Completion("Be", finish_reason="length")
    _, turned_down, _ = run(lambda role, shots: cut if shots else "Light.", models=("teacher",))
    assert [d.drop.reason for d in turned_down] == ["almost:cut", "almost:single"]
    _, turned_down, _ = run(lambda role, shots: BadRequest("no") if shots else "Light.", models=("teacher",))
    assert turned_down[0].drop.reason == "teacher:bad_request"
    copied = "Stand the stems in a glass of water at room temperature."
    _, turned_down, _ = run(lambda role, shots: copied if shots else "Light.", models=("teacher",))
    assert turned_down[0].drop.reason == "almost:leak"


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": ()},
        {"models": ("a", "a")},
        {"shots": (0, 4)},
        {"shots": (1, 1)},
        {"models": ("a",), "shots": (1,)},
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="almost"):
        Almost(**wrong)
