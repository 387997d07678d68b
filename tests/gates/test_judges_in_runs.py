"""The gates that ask, in real runs: breaks and latency leave no trace, and a judge that says nothing ends nothing."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from random import Random

import pytest

from kdaug.errors import BadRequest, TeacherError, TeacherUnavailable
from kdaug.gate import Gate
from kdaug.gates.deita import DeitaScores
from kdaug.gates.judge import Judge
from kdaug.gates.pairwise import Pairwise
from kdaug.generators.pass_through import Pass
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, assistant, user
from kdaug.running import Outcome, execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Completion, Request
from kdaug.teachers.fake import Fake

SEEDS = [
    Record(prompt=user(f"What is {n} + {n}?"), completion=assistant(f"{2 * n}"), rejected=assistant("I like gardens."))
    for n in range(12)
]
GATES: dict[str, Gate] = {
    "expected": Judge(min=3, expected=True),
    "panel": Judge(min=3, judges=("judge", "second", "third"), vote="median"),
    "pairwise": Pairwise(min=0.5, judges=("judge", "second")),
    "deita": DeitaScores(min=9),
}


def moody(request: Request) -> str | Completion | TeacherError:
    """By the request's nonce it is good, bad, cut short, or fails."""
    text, mood = request.messages[-1].content, Random(request.nonce)
    if mood.random() < 0.03:
        return BadRequest("a mood")
    if "Verdict: A" in text:
        return mood.choice(["Verdict: A", "Verdict: B", "Verdict: tie", "Well."])
    if "Score: n" in text:
        return mood.choice([*(f"Because. Score: {n}" for n in range(1, 6)), "Well."])
    said = mood.choice(["1", "2", "3", "4", "5", "Well."])
    return Completion(said, weights={said: 0.7, "1" if said != "1" else "2": 0.3} if said != "Well." else {})


def go(gate: Gate, out: Path, *, jitter: float = 0.0, until: int = 10**9) -> tuple[Outcome, int]:
    calls = count()
    teacher = Fake(
        lambda r: TeacherUnavailable("power cut") if next(calls) >= until else moody(r), concurrency=8, jitter=jitter
    )
    recipe = Recipe(Each(SEEDS), [Stage(Pass(), [gate])])
    players = dict.fromkeys(("teacher", "second", "third"), teacher)
    return execute(recipe, out, players, log=Log(quiet=True)), len(teacher.calls)


def data(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((out / "dataset/data").rglob("*.parquet"))}


@pytest.mark.parametrize("name", GATES)
def test_breaks_and_latency_leave_no_trace_in_the_data(name: str, tmp_path: Path) -> None:
    whole, asked = go(GATES[name], tmp_path / "whole")
    assert whole.exit_code == 0 and whole.facts["kept"] > 0
    assert sum(whole.facts["stages"][0]["dropped"].values()) > 0
    breaks, sent = 0, 0
    while True:
        outcome, calls = go(GATES[name], tmp_path / "broken", jitter=0.003, until=Random(breaks).randrange(3, 8))
        sent += calls
        if outcome.error is None:
            break
        assert isinstance(outcome.error, TeacherUnavailable)
        breaks += 1
    assert breaks >= 1
    assert data(tmp_path / "broken") == data(tmp_path / "whole")
    assert outcome.facts["stages"] == whole.facts["stages"]
    assert asked <= sent <= asked + breaks * 8  # only what met the power cut is asked again


@pytest.mark.parametrize(
    ("name", "reason"), [("expected", "score"), ("panel", "score"), ("pairwise", "verdict"), ("deita", "score")]
)
def test_a_judge_that_never_says_anything_of_use_drops_all_and_ends_nothing(name: str, reason: str, out: Path) -> None:
    players = dict.fromkeys(("teacher", "second", "third"), Fake(lambda r: "I would rather talk of gardens."))
    outcome = execute(Recipe(Each(SEEDS), [Stage(Pass(), [GATES[name]])]), out, players, log=Log(quiet=True))
    assert outcome.exit_code == 3 and outcome.facts["kept"] == 0
    assert outcome.facts["stages"][0]["dropped"] == {f"parse:{reason}": len(SEEDS)}
