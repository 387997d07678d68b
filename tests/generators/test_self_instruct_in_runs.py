"""Self-Instruct as the pipeline it is, in real runs: latency and breaks leave no trace in the data."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from random import Random

import pytest

from kdaug.errors import TeacherError, TeacherUnavailable
from kdaug.gates.instructions import InstructionFilters
from kdaug.gates.rouge import Rouge
from kdaug.generators.instances import Instances
from kdaug.generators.pass_through import Pass
from kdaug.generators.respond import Respond
from kdaug.generators.self_instruct import SelfInstruct
from kdaug.progress import Log
from kdaug.prompts import shipped
from kdaug.read import read
from kdaug.recipe import Recipe
from kdaug.running import Outcome, execute
from kdaug.source import GrowingPool
from kdaug.stage import Stage
from kdaug.teacher import Completion, Request
from kdaug.teachers.fake import Fake

SEEDS = GrowingPool(read(shipped() / "seeds" / "seeds.jsonl"))
NEW = Stage(SelfInstruct(on_cut="drop_last"), [InstructionFilters(), Rouge(0.7)])
RECIPES = {
    "instances": Recipe(SEEDS, [NEW, Stage(Instances()), Stage(Pass(), [Rouge(0.9)])], target=70),
    "respond": Recipe(SEEDS, [NEW, Stage(Respond())], target=90),
}
WORDS = "write name find count sing map tell sort weigh rivers poems stars songs mills towns birds three some old"


def model(request: Request) -> str | Completion:
    """A model of moods, by the request's nonce: lists with a few bad items, both kinds of instances, cut replies."""
    text, mood = request.messages[-1].content, Random(f"{request.digest('model')}/{request.nonce}")

    def sentence() -> str:
        return " ".join(mood.choices(WORDS.split(), k=mood.randint(3, 9)))

    if numbers := re.search(r"numbered (\d+) to (\d+)", text):
        first, last = map(int, numbers.groups())
        reply = "\n".join(f"{n}. {sentence()}" for n in range(first, last + 1))
    elif "Answer Yes or No" in text:
        return mood.choice(["Yes", "No"])
    elif "Class label:" in text:
        reply = "\n".join(f"Class label: {label}\nInput: {sentence()}" for label in ("old", "new"))
    elif "Example 1" in text:
        reply = "\n".join(f"Example {n}\nInput: {mood.choice('aab')}\nOutput: {mood.choice('acd')}" for n in (1, 2))
    else:
        reply = sentence()
    return Completion(reply, finish_reason="length" if mood.random() < 0.2 else "stop")


def go(recipe: Recipe, out: Path, *, jitter: float = 0.0, until: int = 10**9) -> Outcome:
    calls = count()

    def reply(request: Request) -> str | Completion | TeacherError:
        return TeacherUnavailable("power cut") if next(calls) >= until else model(request)

    return execute(recipe, out, {"teacher": Fake(reply, concurrency=8, jitter=jitter)}, log=Log(quiet=True))


def data(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "dataset/data").rglob("*.parquet"))}


@pytest.mark.parametrize("name", RECIPES)
def test_breaks_and_latency_leave_no_trace_in_the_data(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    whole = go(recipe, tmp_path / "whole")
    assert whole.exit_code == 0 and whole.facts["kept"] == recipe.target
    reasons = {reason for stage in whole.facts["stages"] for reason in stage["dropped"]}
    assert {"instructions:too_short", "instructions:blacklist", "self_instruct:cut"} <= reasons
    assert {"instances": "instances:contradiction", "respond": "respond:cut"}[name] in reasons

    breaks = 0
    while (outcome := go(recipe, tmp_path / "broken", jitter=0.003, until=20 + breaks)).error is not None:
        assert isinstance(outcome.error, TeacherUnavailable)
        breaks += 1
    assert breaks >= 1
    assert data(tmp_path / "broken") == data(tmp_path / "whole")
