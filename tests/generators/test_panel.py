"""A panel: who answers, and that one member's failure is its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import BadRequest, ConfigError
from kdaug.generators.panel import Panel
from kdaug.recipe import Recipe, check_roles
from kdaug.record import Discarded, Record, text_of, user
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Completion
from kdaug.teachers.fake import Fake

ASKED = Record(prompt=user("Why?"))


def run(answers: dict[str, Any], seed: int = 0, **fields: Any) -> list[Any]:
    generate = Scripted(lambda role, prompt, sampling: answers[role])
    return list(asyncio.run(Panel(members=tuple(answers), **fields)([ASKED], generate, Random(seed))))


def test_a_member_that_is_not_there_is_asked_for_as_the_command_line_takes_it() -> None:
    recipe = Recipe(Each([ASKED]), [Stage(Panel())])
    with pytest.raises(ConfigError, match=r"panel asks the role 'second': give one with --set roles.second=SPEC "):
        check_roles(recipe, {"teacher": Fake()})
    with pytest.raises(ConfigError, match=r"'teacher': give one with --teacher SPEC "):
        check_roles(recipe, {})


def test_each_member_answers() -> None:
    one, two = run({"teacher": "So.", "second": "Thus."})
    assert (one.by, text_of(one.completion), one.teachers) == ("panel/teacher", "So.", ("scripted-teacher",))
    assert (two.by, text_of(two.completion), two.teachers) == ("panel/second", "Thus.", ("scripted-second",))


def test_one_members_failure_is_its_own() -> None:
    cut = Completion("Be", finish_reason="length")
    made = run({"teacher": "So.", "second": BadRequest("no"), "third": "So. ", "fourth": cut})
    assert isinstance(made[0], Record)
    reasons = [m.drop.reason for m in made if isinstance(m, Discarded)]
    assert reasons == ["teacher:bad_request", "panel:duplicate", "panel:cut"]
    assert made[1].drop.detail["role"] == "second"


def test_one_member_is_drawn_by_weight() -> None:
    drawn = Counter(run({"a": "1", "b": "2"}, seed, mode="one", weights=(3.0, 1.0))[0].by for seed in range(400))
    assert sum(drawn.values()) == 400 and 270 <= drawn["panel/a"] <= 330


@pytest.mark.parametrize(
    "wrong",
    [
        {"members": ()},
        {"members": ("a", "a")},
        {"mode": "some"},
        {"weights": (1.0, 1.0)},
        {"mode": "one", "weights": (1.0,)},
        {"mode": "one", "weights": (1.0, 0.0)},
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="panel"):
        Panel(**wrong)
