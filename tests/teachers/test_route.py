"""Several endpoints as one: in virtual time, and over HTTP with real keys and real outages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from servers.run import FakeOpenAI
from simulated import HELLO, Simulated, keep_busy
from virtual_time import run

from kdaug import recipes
from kdaug.errors import (
    AccessDenied,
    BadRequest,
    BudgetExceeded,
    ConfigError,
    RateLimited,
    ServerError,
    TeacherError,
    TeacherUnavailable,
)
from kdaug.record import Messages, user
from kdaug.teacher import Completion, Request, ScoringTeacher, Teacher, TokenLogprobs
from kdaug.teachers.fake import Fake
from kdaug.teachers.openai import OpenAI
from kdaug.teachers.retry import Retry
from kdaug.teachers.route import Route


def test_calls_are_spread_by_what_each_can_take() -> None:
    small, large = Simulated(concurrency=10), Simulated(concurrency=30)
    route = Route([small, large])
    assert route.concurrency == 40
    run(keep_busy(route, 100))
    assert (small.peak, large.peak) == (10, 30)
    assert 2.5 < len(large.answered) / len(small.answered) < 3.5


@pytest.mark.parametrize("why", [TeacherUnavailable("no connection"), ServerError("502"), AccessDenied("401")])
def test_one_that_fails_is_rested_and_probed_and_comes_back(why: TeacherError) -> None:
    sound, ill = Simulated(concurrency=10), Simulated(concurrency=10)
    route = Route([sound, ill])

    async def main() -> None:
        busy = asyncio.ensure_future(keep_busy(route, 400))
        await asyncio.sleep(50)
        ill.down = why
        await asyncio.sleep(10)
        assert "2: resting" in route.status
        ill.peak, before = 0, len(ill.sent)
        await asyncio.sleep(150)
        assert ill.peak == 1, "one probe at a time"
        assert 1 <= len(ill.sent) - before < 20
        ill.down = None
        await asyncio.sleep(65)
        assert route.status == ""
        assert ill.flying >= 8
        assert not await busy, "nothing was lost"

    run(main())
    assert sound.peak == 10


def test_one_that_is_rate_limited_pauses_and_the_other_goes_on() -> None:
    free, limited = Simulated(concurrency=10), Simulated(concurrency=10)
    route = Route([free, limited])

    async def main() -> None:
        busy = asyncio.ensure_future(keep_busy(route, 60))
        await asyncio.sleep(10)
        limited.down = RateLimited("slow down", retry_after=30.0)
        await asyncio.sleep(2)
        limited.down, before, others = None, len(limited.sent), len(free.sent)
        assert "2: pausing" in route.status
        await asyncio.sleep(20)
        assert len(limited.sent) == before
        assert len(free.sent) > others + 100
        await busy

    run(main())
    assert len(limited.answered) > 200


def test_a_request_does_not_wait_while_another_endpoint_is_idle() -> None:
    """Nor is it announced as repeated when it is not."""
    ill = Simulated(down=ServerError("502"), sigma=0.0)
    announced: list[Request] = []

    async def again(request: Request, failed: TeacherError | None = None) -> None:
        announced.append(request)

    async def main() -> float:
        route = Route([Retry(ill), Retry(Simulated(sigma=0.0))])
        await route.generate(Request(user("Hello."), again=again))
        return asyncio.get_running_loop().time()

    assert run(main()) < 1.1
    assert len(announced) == len(ill.sent) == 1


def test_the_budget_may_forbid_another_endpoint() -> None:
    async def again(request: Request, failed: TeacherError | None = None) -> None:
        raise BudgetExceeded("the cap is reached", "max_cost")

    other = Simulated()
    with pytest.raises(BudgetExceeded):
        run(Route([Simulated(down=ServerError("502")), other]).generate(Request(user("Hello."), again=again)))
    assert not other.sent


def test_what_is_the_requests_own_fault_goes_nowhere_else() -> None:
    one, two = Fake(lambda r: BadRequest("bad")), Fake(lambda r: BadRequest("bad"))
    with pytest.raises(BadRequest):
        asyncio.run(Route([one, two]).generate(HELLO))
    assert len(one.calls) + len(two.calls) == 1


def test_when_all_are_down_few_calls_go_out_and_the_run_can_be_resumed() -> None:
    both = [Simulated(concurrency=500), Simulated(concurrency=500)]
    route = Route(both, patience=60.0)

    async def main() -> list[Completion | BaseException]:
        await route.generate(HELLO)
        for one in both:
            one.down = TeacherUnavailable("no connection")
        return await asyncio.gather(*(route.generate(HELLO) for _ in range(1000)), return_exceptions=True)

    assert {type(e) for e in run(main())} == {TeacherUnavailable}
    assert sum(len(one.sent) for one in both) < 2100, "each request at each endpoint, then single probes"


@pytest.mark.parametrize(
    ("others", "kind"), [(AccessDenied("401"), AccessDenied), (TeacherUnavailable("none"), TeacherUnavailable)]
)
def test_a_denial_stops_only_where_all_deny(others: TeacherError, kind: type[TeacherError]) -> None:
    route = Route([Simulated(down=AccessDenied("401 wrong key")), Simulated(down=others)])
    with pytest.raises(kind):
        run(route.generate(HELLO))


def test_its_name_is_theirs() -> None:
    def named(*names: str) -> str:
        return Route([Fake(name=name) for name in names]).name

    assert named("openai:m", "openai:m") == "openai:m"
    assert named("b", "a", "b") == named("a", "b") == "a|b"
    with pytest.raises(ConfigError):
        Route([])


class Scorer(Fake):
    async def logprobs(self, prompt: Messages, completion: Messages, top_k: int) -> TokenLogprobs:
        none = np.zeros(0)
        return TokenLogprobs(none, none, none, none, none)


def test_it_scores_where_all_do() -> None:
    assert not isinstance(Route([Scorer(), Fake()]), ScoringTeacher)
    route = Route([Scorer(), Scorer()])
    assert isinstance(route, ScoringTeacher)
    assert asyncio.run(route.logprobs(user("a"), user("b"), 0)).token_ids.shape == (0,)


def over_http(teacher: Teacher, folder: Path, number: int) -> list[Completion | BaseException]:
    async def main() -> list[Completion | BaseException]:
        await teacher.open(folder)
        try:
            asked = (teacher.generate(Request(user(f"Question {i}"))) for i in range(number))
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await teacher.aclose()

    return asyncio.run(main())


def test_a_wrong_key_among_two_costs_one_call_and_two_wrong_ones_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOD_KEY", "sk-good")
    monkeypatch.setenv("BAD_KEY", "sk-bad")
    with FakeOpenAI(api_key="sk-good", latency_ms=5) as server:
        good = f"openai:m?base_url={server.url}&api_key_env=GOOD_KEY"
        bad = f"openai:m?base_url={server.url}&api_key_env=BAD_KEY"
        results = over_http(recipes.teacher(f"route:{bad}|{good}"), tmp_path, 200)
        assert all(isinstance(r, Completion) for r in results)
        assert server.stats()["outcomes"] == {"ok": 200, "401": 1}
        server.configure(api_key="sk-good", latency_ms=5)
        denied = over_http(recipes.teacher(f"route:{bad}|{bad}"), tmp_path, 50)
        assert {type(e) for e in denied} == {AccessDenied}
        assert "401" in str(denied[0])
        assert server.stats()["outcomes"] == {"401": 2}


def test_an_endpoint_that_dies_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    async def main(first: FakeOpenAI, second: FakeOpenAI) -> list[Completion]:
        route = Route([OpenAI("m", base_url=first.url), OpenAI("m", base_url=second.url)])
        await route.open(tmp_path)
        asked = [asyncio.ensure_future(route.generate(Request(user(f"Question {i}")))) for i in range(600)]
        await asyncio.sleep(0.4)
        first.stop()
        try:
            return await asyncio.gather(*asked)
        finally:
            await route.aclose()

    with FakeOpenAI(latency_ms=100) as first, FakeOpenAI(latency_ms=100) as second:
        assert len(asyncio.run(main(first, second))) == 600
        assert second.stats()["ok_repeated"] == 0
