"""Retry over the scripted teacher and over real HTTP."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from servers.run import FakeOpenAI, free_port
from simulated import Simulated
from virtual_time import run

from kdaug.errors import (
    AccessDenied,
    BadReply,
    BadRequest,
    BudgetExceeded,
    ConfigError,
    ContextTooLong,
    RateLimited,
    Refused,
    ServerError,
    TeacherError,
    TeacherTimeout,
    TeacherUnavailable,
)
from kdaug.record import Messages, user
from kdaug.teacher import Completion, Request, ScoringTeacher, TokenLogprobs
from kdaug.teachers.endpoint import Endpoint
from kdaug.teachers.fake import Fake
from kdaug.teachers.retry import Retry

HELLO = Request(user("Hello."))


def failing(times: int, error: TeacherError) -> Fake:
    """Fails so many times, then answers."""

    def reply(request: Request) -> str | TeacherError:
        return error if len(fake.calls) <= times else "fine"

    fake = Fake(reply)
    return fake


def ask(teacher: Retry, request: Request = HELLO) -> Completion:
    return asyncio.run(teacher.generate(request))


@pytest.mark.parametrize("kind", [TeacherTimeout, ServerError, BadReply, RateLimited])
def test_a_passing_failure_is_tried_again(kind: type[TeacherError]) -> None:
    retry = Retry(failing(2, kind("try later")), base=0.001)
    assert ask(retry).text == "fine"
    assert retry.retries == 2
    assert (retry.waiting, retry.late) == (0, 0)


def test_a_call_that_hangs_is_given_up_after_three_timeouts_and_stops_no_other() -> None:
    """Also where four of them are all that is left of a run: that is no outage."""

    def reply(request: Request) -> str | TeacherError:
        return TeacherTimeout("late") if "hang" in request.messages[0].content else "fine"

    class Slow(Fake):
        async def generate(self, request: Request) -> Completion:
            await asyncio.sleep(120.0 if "hang" in request.messages[0].content else 1.0)
            return await super().generate(request)

    retry = Retry(Slow(reply))

    async def main() -> list[Completion | BaseException]:
        asked = [asyncio.ensure_future(retry.generate(Request(user(text)))) for text in (*("hang",) * 4, *("ok",) * 9)]
        await asyncio.sleep(130)
        assert retry.status == "4 tried again after a timeout"
        return await asyncio.gather(*asked, return_exceptions=True)

    *hung, _ = (found := run(main()))[:5]
    assert [type(e) for e in hung] == [TeacherTimeout] * 4
    assert all(isinstance(c, Completion) for c in found[4:])
    assert sum("hang" in call.messages[0].content for call in retry.teacher.calls) == 12  # type: ignore[attr-defined] # a Fake
    assert retry.status == ""


@pytest.mark.parametrize(("kind", "calls"), [(ServerError, 6), (BadReply, 6), (RateLimited, 6)])
def test_after_the_last_try_the_last_error_is_raised(kind: type[TeacherError], calls: int) -> None:
    """While others come through: where none does, no single call is to blame."""
    fake = Fake({"Hello": kind("try later"), "Others": "fine"})

    async def main() -> None:
        retry = Retry(fake, base=1.0)
        asked = asyncio.ensure_future(retry.generate(HELLO))
        while not asked.done():
            await retry.generate(Request(user("Others.")))
            await asyncio.sleep(0.1)
        with pytest.raises(kind, match=r"^try later$"):
            await asked

    run(main())
    assert sum("Hello" in call.messages[0].content for call in fake.calls) == calls


def test_where_others_are_refused_too_a_rate_limit_gets_four_times_the_tries() -> None:
    turns = iter(range(10**6))

    def reply(request: Request) -> str | TeacherError:
        busy = "Hello" in request.messages[0].content or next(turns) % 2
        return RateLimited("slow down") if busy else "fine"

    fake = Fake(reply)

    async def main() -> None:
        retry = Retry(fake, base=1.0)
        asked = asyncio.ensure_future(retry.generate(HELLO))
        while not asked.done():
            await retry.generate(Request(user("Others.")))
            await asyncio.sleep(0.1)
        with pytest.raises(RateLimited, match="slow down"):
            await asked

    run(main())
    assert sum("Hello" in call.messages[0].content for call in fake.calls) == 24


class OutOfPaper(TeacherError):
    """A fatal error that kdaug does not know."""

    retryable = True
    fatal = True


@pytest.mark.parametrize("kind", [BadRequest, ContextTooLong, Refused, AccessDenied, OutOfPaper])
def test_what_no_repetition_can_mend_is_raised_at_once(kind: type[TeacherError]) -> None:
    fake = failing(1000, kind("no"))
    with pytest.raises(kind):
        ask(Retry(fake))
    assert len(fake.calls) == 1


def test_an_outage_is_waited_out() -> None:
    assert ask(Retry(failing(3, TeacherUnavailable("no connection")), base=0.001)).text == "fine"


def test_an_outage_that_lasts_is_raised_with_how_long_it_was_tried() -> None:
    fake = failing(1000, TeacherUnavailable("no connection"))
    with pytest.raises(TeacherUnavailable, match=r"no connection \(tried \d+ times in \d+ s\)"):
        ask(Retry(fake, base=0.02, patience=0.1))
    assert len(fake.calls) > 2


def test_a_teacher_that_has_answered_gets_more_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdaug.teachers.breaker.FIRST_PATIENCE", 0.0)
    never = Retry(failing(1000, TeacherUnavailable("no connection")), base=0.001)
    with pytest.raises(TeacherUnavailable, match="tried 1 times"):
        ask(never)

    def reply(request: Request) -> str | TeacherError:
        return TeacherUnavailable("restarting") if 2 <= len(fake.calls) <= 5 else "fine"

    fake = Fake(reply)
    retry = Retry(fake, base=0.001)
    assert ask(retry).text == "fine"
    assert ask(retry).text == "fine"
    assert len(fake.calls) == 6


@pytest.mark.parametrize("why", [TeacherUnavailable("no connection"), ServerError("502"), RateLimited("429")])
def test_when_all_fail_one_call_at_a_time_is_the_probe_of_all(why: TeacherError) -> None:
    server = Simulated(sigma=0.0, concurrency=1000)
    retry = Retry(server, patience=600.0)

    async def main() -> list[Completion]:
        await retry.generate(HELLO)
        server.down = why
        asked = [asyncio.ensure_future(retry.generate(HELLO)) for _ in range(1000)]
        await asyncio.sleep(5)
        server.peak, before = 0, len(server.sent)
        await asyncio.sleep(200)
        assert server.peak == 1
        assert 5 <= len(server.sent) - before <= 20, "at intervals that grow to 30 s"
        assert "nothing comes through for 205 s" in retry.status
        server.down = None
        return await asyncio.gather(*asked)

    assert len(run(main())) == 1000
    assert retry.status == ""
    assert retry.waiting == 0


def test_when_patience_ends_all_that_wait_are_told_and_it_can_be_asked_again() -> None:
    server = Simulated(sigma=0.0, concurrency=1000)
    retry = Retry(server, patience=60.0)

    async def main() -> None:
        await retry.generate(HELLO)
        server.down = ServerError("502")
        asked = [asyncio.ensure_future(retry.generate(HELLO)) for _ in range(1000)]
        failed = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(e) for e in failed} == {TeacherUnavailable}
        assert "502 (tried" in str(failed[0])
        assert asyncio.get_running_loop().time() < 70
        server.down = None
        await retry.generate(HELLO)

    run(main())
    assert len(server.sent) < 1020


def test_a_wish_to_wait_outlasts_patience_by_one_probe() -> None:
    server = Simulated(down=RateLimited("slow down", retry_after=90.0), sigma=0.0)

    async def main() -> None:
        asked = [asyncio.ensure_future(Retry(server, patience=60.0).generate(HELLO))]
        await asyncio.gather(*asked, return_exceptions=True)

    run(main())
    assert server.sent[-1] - server.sent[-2] >= 90


def test_a_cancelled_probe_hands_its_turn_on() -> None:
    server = Simulated(down=TeacherUnavailable("no connection"), sigma=0.0)
    retry = Retry(server)

    async def main() -> Completion:
        first = asyncio.ensure_future(retry.generate(HELLO))
        await asyncio.sleep(0.02)
        second = asyncio.ensure_future(retry.generate(HELLO))
        server.down, server.base = None, 1000.0
        await asyncio.sleep(1)
        server.base = 1.0
        first.cancel()
        return await second

    assert run(main()).text == "fine"


def test_every_repeated_sending_is_announced_and_may_be_forbidden() -> None:
    announced: list[Request] = []

    async def again(request: Request, failed: TeacherError | None = None) -> None:
        announced.append(request)
        if len(announced) == 3:
            raise BudgetExceeded("the cap is reached", "max_cost")

    request = Request(user("Hello."), again=again)
    fake = failing(1000, ServerError("try later"))
    with pytest.raises(BudgetExceeded):
        asyncio.run(Retry(fake, base=0.001).generate(request))
    assert len(fake.calls) == 3
    assert announced == [request] * 3


def pauses(monkeypatch: pytest.MonkeyPatch, retry: Retry) -> list[float]:
    """The pauses that a teacher which fails all along is given."""
    seen: list[float] = []

    async def note(seconds: float) -> None:
        seen.append(seconds)

    monkeypatch.setattr("kdaug.teachers.retry.asyncio.sleep", note)
    with pytest.raises(TeacherError):
        asyncio.run(retry._persist(lambda: _raise(retry.teacher.reply(HELLO)), None))  # type: ignore[attr-defined] # a Fake
    return seen


async def _raise(error: TeacherError) -> Completion:
    raise error


def test_pauses_grow_up_to_the_cap_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def many() -> list[list[float]]:
        return [pauses(monkeypatch, Retry(Fake(lambda r: ServerError("x")), base=1.0, cap=4.0)) for _ in range(200)]

    columns = list(zip(*many(), strict=True))
    for column, most in zip(columns, (1.0, 2.0, 4.0, 4.0, 4.0), strict=True):
        assert 0.8 * most < max(column) <= most
        assert min(column) < 0.2 * most, "full jitter"


def test_a_wish_to_wait_is_granted_within_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    polite = Retry(Fake(lambda r: ServerError("x", retry_after=7.0)), base=1.0)
    assert all(7.0 <= p <= 7.0 + 16.0 for p in pauses(monkeypatch, polite))
    absurd = Retry(Fake(lambda r: ServerError("x", retry_after=86_400.0)), base=0.0)
    assert pauses(monkeypatch, absurd) == [120.0] * 5


def test_it_stands_for_its_teacher() -> None:
    retry = Retry(Fake(name="fake:a", concurrency=7))
    assert (retry.name, retry.concurrency) == ("fake:a", 7)
    assert not isinstance(retry, ScoringTeacher)
    with pytest.raises(ConfigError):
        Retry(Fake(), tries=0)


class Scorer(Fake):
    """A white-box teacher that fails once."""

    scored = 0

    async def logprobs(self, prompt: Messages, completion: Messages, top_k: int) -> TokenLogprobs:
        self.scored += 1
        if self.scored == 1:
            raise ServerError("try later")
        none = np.zeros(0)
        return TokenLogprobs(none, none, none, none, none)


def test_scoring_is_tried_again_too() -> None:
    retry = Retry(Scorer(), base=0.001)
    assert isinstance(retry, ScoringTeacher)
    assert asyncio.run(retry.logprobs(user("a"), user("b"), 0)).token_ids.shape == (0,)
    assert retry.retries == 1


def over_http(server: FakeOpenAI, prompts: list[str], **options: float) -> list[Completion | BaseException]:
    async def run() -> list[Completion | BaseException]:
        retry = Retry(Endpoint("m", base_url=server.url), **options)  # type: ignore[arg-type] # tries is given to none
        await retry.open(Path())
        try:
            asked = (retry.generate(Request(user(prompt))) for prompt in prompts)
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await retry.aclose()

    return asyncio.run(run())


def test_nothing_is_lost_or_paid_twice_under_faults() -> None:
    faults = dict.fromkeys(("429", "500", "503", "reset", "trunc", "blank", "html"), 0.04)
    with FakeOpenAI(faults=faults, retry_after=0.01) as server:
        results = over_http(server, [f"Question {i}" for i in range(200)], base=0.001)
        stats = server.stats()
    assert all(isinstance(r, Completion) for r in results)
    assert stats["ok_distinct"] == 200
    assert stats["ok_repeated"] == 0
    assert stats["total"] > 220


def test_the_next_try_comes_no_sooner_than_the_server_wished() -> None:
    with FakeOpenAI(retry_after=0.3, trace=True) as server:
        (result,) = over_http(server, ["@@FAIL:429*2@@"], base=0.001)
        calls = server.trace()
    assert isinstance(result, Completion)
    assert [call["outcome"] for call in calls] == ["429", "429", "ok"]
    assert all(after["arrived"] - before["departed"] >= 0.3 for before, after in pairwise(calls))


@pytest.mark.parametrize(("fault", "calls"), [("400", 1), ("401", 1), ("context", 1), ("500", 6)])
def test_every_class_gets_its_number_of_calls(fault: str, calls: int) -> None:
    with FakeOpenAI() as server:
        over_http(server, [f"@@FAIL:{fault}@@"], base=0.001)
        assert server.stats()["total"] == calls


def test_an_endpoint_that_restarts_is_waited_for() -> None:
    port = free_port()

    async def run() -> Completion:
        retry = Retry(Endpoint("m", base_url=f"http://127.0.0.1:{port}/v1"), base=0.05)
        await retry.open(Path())
        asked = asyncio.ensure_future(retry.generate(HELLO))
        await asyncio.sleep(0.2)
        server = await asyncio.to_thread(FakeOpenAI(port=port).__enter__)
        try:
            completion = await asked
        finally:
            server.stop()
        await retry.aclose()
        return completion

    assert asyncio.run(run()).text.startswith("ANS[")
