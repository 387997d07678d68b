"""How a run ends early: nothing more is sent, what is answered is decided, and no more is made than is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from kdaug.engine import BARREN
from kdaug.errors import RateLimited
from kdaug.generators.respond import Respond
from kdaug.generators.self_instruct import SelfInstruct
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, user
from kdaug.running import Outcome, execute
from kdaug.source import Each, GrowingPool
from kdaug.stage import Stage
from kdaug.teacher import Request, Teacher
from kdaug.teachers.fake import Fake
from kdaug.teachers.limit import Limit
from kdaug.teachers.retry import Retry
from kdaug.teachers.route import Route


def questions(count: int) -> list[Record]:
    return [Record(prompt=user(f"question {i}")) for i in range(count)]


def answering(count: int, **more: float) -> Recipe:
    return Recipe(Each(questions(count)), [Stage(Respond())], **more)  # type: ignore[arg-type] # target is an int


def go(recipe: Recipe, out: Path, teacher: Teacher) -> Outcome:
    return execute(recipe, out, {"teacher": teacher}, log=Log(quiet=True))


def limited(inner: Fake) -> Teacher:
    return Limit(inner, rpm=60)


def refusing(inner: Fake) -> Teacher:
    """One in two calls is refused, and asked to wait for half a minute."""
    inner.reply = lambda r: (
        RateLimited("slow down", retry_after=30.0) if Random(f"{r.messages}").random() < 0.5 else "fine"
    )
    return Retry(inner)


def routed(inner: Fake) -> Teacher:
    return Route([Limit(inner, rpm=60)])


@pytest.mark.parametrize("held_back", [limited, refusing, routed])
def test_what_was_not_sent_when_time_is_up_is_not_sent(held_back: Callable[[Fake], Teacher], out: Path) -> None:
    inner = Fake(lambda r: "fine", concurrency=32)
    started = time.monotonic()
    outcome = go(answering(30, max_time=0.4, max_calls=1000), out, held_back(inner))
    assert outcome.facts["ended_by"] == "max_time"
    assert time.monotonic() - started < 15  # not the 30 s that the others would have taken
    sent = len(inner.calls)
    assert sent < 30 or held_back is refusing
    again = Fake(lambda r: "fine", concurrency=32)
    whole = go(answering(30, max_calls=sent + 30), out, again)
    assert whole.facts["kept"] == 30  # no reservation of a call that was not sent counts
    assert {r.messages for r in inner.calls} | {r.messages for r in again.calls} == {q.prompt for q in questions(30)}


def test_what_is_answered_at_the_end_is_decided(out: Path) -> None:
    teacher = Fake(concurrency=1000, latency=0.5)
    outcome = go(answering(40, max_time=0.2), out, teacher)
    assert outcome.exit_code == 3
    assert outcome.facts["kept"] == len(teacher.calls) == 40


def test_a_target_that_the_last_answers_meet_is_met(out: Path) -> None:
    outcome = go(answering(40, max_time=0.2, target=30), out, Fake(concurrency=1000, latency=0.5))
    assert (outcome.exit_code, outcome.facts["ended_by"], outcome.facts["kept"]) == (0, "target", 30)


def test_no_more_is_asked_than_the_target_needs(tmp_path: Path) -> None:
    teacher = Fake(concurrency=64, latency=0.01)
    assert go(answering(500, target=10), tmp_path / "all", teacher).facts["kept"] == 10
    assert len(teacher.calls) == 10

    def half(request: Request) -> str:
        return "" if Random(f"{request.messages}").random() < 0.5 else "an answer"

    teacher = Fake(half, concurrency=64, latency=0.01)
    outcome = go(answering(500, target=100), tmp_path / "half", teacher)
    assert outcome.facts["kept"] == 100
    needed = outcome.facts["stages"][0]["jobs"]
    assert needed <= len(teacher.calls) <= 1.1 * needed


def test_stages_above_make_no_more_than_the_last_one_needs(out: Path) -> None:
    teacher = Fake(concurrency=32, latency=0.005)
    recipe = Recipe(GrowingPool(questions(20)), [Stage(SelfInstruct()), Stage(Respond())], target=400)
    first, last = go(recipe, out, teacher).facts["stages"]
    assert last["kept"] >= 400
    assert first["kept"] <= last["jobs"] + 64  # a window of jobs, each of which proposes eight


def test_a_pool_that_keeps_nothing_stops_and_says_so(out: Path) -> None:
    def same(request: Request) -> str:
        return "nothing numbered here"

    teacher = Fake(same, concurrency=8)
    recipe = Recipe(GrowingPool(questions(20)), [Stage(SelfInstruct())], target=50)
    outcome = go(recipe, out, teacher)
    assert outcome.exit_code == 3
    assert outcome.facts["ended_by"] == "barren"
    assert BARREN <= outcome.facts["stages"][0]["jobs"] <= BARREN + 16
    assert f"the last {BARREN} jobs of 0.self_instruct kept nothing" in (out / "log.txt").read_text("utf-8")
    before = len(teacher.calls)
    assert go(recipe, out, teacher).facts["ended_by"] == "barren"
    assert len(teacher.calls) > before  # it does go on
