"""How a run ends early: nothing more is sent, what is answered is decided, and no more is made than is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from kdaug.engine import BARREN
from kdaug.errors import BadReply, BadRequest, RateLimited, TeacherError
from kdaug.generators.respond import Respond
from kdaug.generators.self_instruct import SelfInstruct
from kdaug.prices import Price
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, user
from kdaug.running import Outcome, execute
from kdaug.show import Story
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
    assert outcome.facts["kept"] == len(teacher.calls) > 0


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


def test_a_run_that_keeps_nothing_of_what_it_asked_is_not_finished(out: Path) -> None:
    def reply(request: Request) -> TeacherError:
        if "question 0" in request.messages[0].content:
            return BadRequest("400 another thing")
        return BadRequest("400 no such model m (Incorrect API key provided: sk-abc-123, Bearer tok3n)")

    outcome = go(answering(8), out, Fake(reply))
    assert (outcome.exit_code, outcome.facts["status"], outcome.facts["kept"]) == (3, "stopped", 0)
    told = (out / "log.txt").read_text("utf-8")
    assert "stopped: every seed was used; no record was kept" in told
    quoted = "the commonest failure: 400 no such model m (Incorrect API key provided: sk-***, Bearer ***)"
    assert quoted in told and "sk-abc" not in told and "tok3n" not in told
    assert quoted in list(Story(out).funnel())
    assert go(answering(8), out, Fake(reply)).exit_code == 3  # so it is when it is told again


def test_what_is_dropped_for_another_reason_is_nothing_kept_too(out: Path) -> None:
    outcome = go(answering(3), out, Fake(lambda r: ""))
    assert outcome.exit_code == 3
    assert go(answering(3), out.with_name("fine"), Fake(lambda r: "fine")).exit_code == 0


def test_what_attempts_without_an_answer_may_have_cost_is_told_without_a_cap(out: Path) -> None:
    """A torn reply is paid for; a call that is refused is not."""
    torn = [BadReply("half of the JSON"), RateLimited("429"), BadReply("half of the JSON")]
    teacher = Retry(Fake(lambda r: torn.pop() if torn else "fine", name="openai:m"), base=0.001)
    recipe = Recipe(Each(questions(2)), [Stage(Respond())], prices={"m": Price(1.0, 1.0)})
    facts = go(recipe, out, teacher).facts
    unclear = facts["usage"]["openai:m"]["unclear_tokens"]
    assert 2 * 1024 <= unclear < 2 * 1024 + 1000
    assert facts["bill"]["unclear"] == pytest.approx(unclear / 1e6)
    words = f"and {unclear:,} at most for calls that broke off"
    assert f"completion tokens, {words}" in (out / "log.txt").read_text("utf-8")
    assert any(words in line for line in Story(out).funnel())
