"""The generators that call in turn and fan out, in real runs: latency and breaks leave no trace in the data."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from random import Random

import pytest

from kdaug.errors import BadRequest, TeacherError, TeacherUnavailable
from kdaug.gates.judge import Judge
from kdaug.generators.evol_instruct import EvolInstruct
from kdaug.generators.feedback import Feedback
from kdaug.generators.self_knowledge import SelfKnowledge
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, assistant, user
from kdaug.running import Outcome, execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Completion, Request
from kdaug.teachers.fake import Fake

SEEDS = [Record(prompt=user(f"What is {n} + {n}?"), completion=assistant(f"#### {2 * n}")) for n in range(10)]
RECIPES = {
    "evol_instruct": Recipe(Each(SEEDS), [Stage(EvolInstruct(), [Judge(min=3)])]),
    "feedback": Recipe(Each(SEEDS), [Stage(Feedback(), [Judge(min=2)])]),
    "self_knowledge": Recipe(Each(SEEDS), [Stage(SelfKnowledge())]),
    "self_knowledge_verify": Recipe(Each(SEEDS), [Stage(SelfKnowledge(mode="verify"))]),
}


def model(request: Request) -> str | Completion | TeacherError:
    """A model of moods: by the request's nonce it is good, bad, cut short, or fails."""
    text, mood = request.messages[-1].content, Random(request.nonce)
    if mood.random() < 0.03:
        return BadRequest("a mood")
    if "Verdict:" in text:
        return mood.choice(["Verdict: equal", "Verdict: not equal", "Verdict: not equal", "Well."])
    if "Score: n" in text:
        return mood.choice([*(f"Because. Score: {n}" for n in range(1, 6)), "Well."])
    if "No issues" in text:
        return mood.choice(["No issues.", "1. It is too short."])
    answer = f"I count {mood.randrange(10**6)} and then. Answer: {mood.randrange(24)}"
    return Completion(answer, finish_reason="length") if mood.random() < 0.05 else answer


def go(recipe: Recipe, out: Path, *, jitter: float = 0.0, until: int = 10**9) -> tuple[Outcome, int]:
    calls = count()
    teacher, student = (
        Fake(
            lambda r: TeacherUnavailable("power cut") if next(calls) >= until else model(r),
            name=name,
            concurrency=8,
            jitter=jitter,
        )
        for name in ("big", "small")
    )
    outcome = execute(recipe, out, {"teacher": teacher, "student": student}, log=Log(quiet=True))
    return outcome, len(teacher.calls) + len(student.calls)


def data(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "dataset/data").rglob("*.parquet"))}


@pytest.mark.parametrize("name", RECIPES)
def test_breaks_and_latency_leave_no_trace_in_the_data(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    whole, asked = go(recipe, tmp_path / "whole")
    assert whole.exit_code == 0 and whole.facts["kept"] > 0
    assert sum(sum(stage["dropped"].values()) for stage in whole.facts["stages"]) > 0

    breaks, sent = 0, 0
    while True:
        outcome, calls = go(recipe, tmp_path / "broken", jitter=0.003, until=Random(breaks).randrange(5, 12))
        sent += calls
        if outcome.error is None:
            break
        assert isinstance(outcome.error, TeacherUnavailable)
        breaks += 1
    assert breaks >= 2
    assert data(tmp_path / "broken") == data(tmp_path / "whole")
    assert outcome.facts["stages"] == whole.facts["stages"]
    # What was answered is not asked again: only calls that met the power cut are.
    assert asked <= sent <= asked + breaks * 16
