"""Limits against endpoints in virtual time, whose minutes pass at once, and against a server over HTTP."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path

import pytest
from servers.run import FakeOpenAI
from simulated import HELLO, Simulated, busiest, keep_busy
from virtual_time import run

from kdaug.errors import BadRequest, ConfigError, RateLimited
from kdaug.record import user
from kdaug.teacher import Completion, Reporting, Request, Sampling, ScoringTeacher
from kdaug.teachers.fake import Fake
from kdaug.teachers.limit import Limit
from kdaug.teachers.openai import OpenAI
from kdaug.teachers.retry import Retry


@pytest.mark.parametrize("rpm", [3, 100, 2000])
def test_requests_a_minute_are_kept_in_any_minute_and_used(rpm: int) -> None:
    server = Simulated()
    run(keep_busy(Limit(server, rpm=rpm), 600))
    assert busiest(server.sent, 59.999) <= rpm
    assert len(server.sent) >= (0.6 if rpm == 3 else 0.95) * 10 * rpm


@pytest.mark.parametrize("tpm", [6_000, 200_000])
def test_tokens_a_minute_are_kept_although_they_are_known_only_afterwards(tpm: int) -> None:
    server = Simulated(lengths=(20, 50, 200, 400))
    request = Request(user("Tell me a story. " * 40), Sampling(max_tokens=1024))
    run(keep_busy(Limit(server, tpm=tpm), 600, request))
    later = [(when, tokens) for when, tokens in server.used if when > 60]  # until then, max_tokens are reckoned with
    each_minute = [sum(n for when, n in later if start <= when < start + 60) for start in range(60, 540, 10)]
    assert max(each_minute) <= 1.1 * tpm
    assert sum(each_minute) / len(each_minute) >= 0.8 * tpm


def test_a_call_of_more_tokens_than_a_minute_has_is_never_sent() -> None:
    """The first one is a mistake of whoever set the limit; later on it is the record that is too long."""
    server = Simulated()
    limit = Limit(server, tpm=1000)

    async def main() -> None:
        with pytest.raises(ConfigError, match=r"about 4,097 tokens \(max_tokens is 4,096\) is larger than tpm=1000"):
            await limit.generate(Request(user("Hi."), Sampling(max_tokens=4096)))
        await limit.generate(Request(user("Tell me. " * 10), Sampling(max_tokens=100)))
        with pytest.raises(BadRequest, match="larger than tpm=1000"):
            await limit.generate(Request(user("Tell me. " * 10_000), Sampling(max_tokens=100)))

    run(main())
    assert len(server.sent) == 1


def test_slots_fall_on_refusals_and_come_back() -> None:
    server = Simulated(refuses_over=20, retry_after=1.0)
    limit = Limit(server)

    async def main() -> None:
        busy = asyncio.ensure_future(keep_busy(Retry(limit), 220))
        await asyncio.sleep(100)
        assert limit.status.endswith("of 128 slots") or "pausing" in limit.status
        assert 5 <= limit._slots.limit <= 25
        assert server.refused < 0.15 * len(server.sent)
        server.refuses_over, before = None, server.refused
        await asyncio.sleep(90)
        assert limit._slots.limit > 120
        assert server.refused == before
        assert not await busy, "nothing is lost"

    run(main())


def test_a_saturated_server_that_refuses_nothing_is_not_flooded() -> None:
    """From its first call on; and what it can do is used."""
    server = Simulated(works_on=20)
    limit, seen = Limit(server), list[float]()

    async def main() -> None:
        busy = asyncio.ensure_future(keep_busy(limit, 900))
        for _ in range(50):
            await asyncio.sleep(10)
        for _ in range(40):
            await asyncio.sleep(10)
            seen.append(server.flying)
        await busy

    run(main())
    assert sum(seen) / len(seen) < 64
    assert len(server.answered) > 0.9 * 900 * 20


def test_a_server_that_becomes_saturated_is_noticed_soon() -> None:
    server = Simulated()
    limit = Limit(server)

    async def main() -> None:
        busy = asyncio.ensure_future(keep_busy(limit, 200))
        await asyncio.sleep(50)
        assert limit.status == ""
        server.works_on = 20
        await asyncio.sleep(60)
        assert limit._slots.limit <= 80
        await busy

    run(main())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("lengths", "per_token"), [((100,), 0.0), ((5, 10, 500, 1000), 0.0), ((5, 10, 500, 1000), 0.02)]
)
def test_a_healthy_server_with_uneven_latency_is_not_throttled(
    lengths: tuple[int, ...], per_token: float, seed: int
) -> None:
    def answered(adaptive: bool) -> int:
        server = Simulated(lengths=lengths, per_token=per_token, sigma=0.6, seed=seed)
        run(keep_busy(Limit(server, adaptive=adaptive), 300))
        return len(server.answered)

    assert answered(True) > 0.95 * answered(False)


def test_replies_that_grow_longer_are_no_sign_of_saturation() -> None:
    server = Simulated(base=0.5, per_token=0.02, lengths=(10,))
    limit = Limit(server)

    async def main() -> None:
        busy = asyncio.ensure_future(keep_busy(limit, 300))
        for lengths in ((10,), (1000,), (10,), (1000,)):
            server.lengths = lengths
            await asyncio.sleep(40)
        await busy

    run(main())
    assert limit._slots.trials <= 3


def test_one_refusal_pauses_the_endpoint_for_as_long_as_it_asks() -> None:
    server = Simulated(down=RateLimited("slow down", retry_after=7.0), sigma=0.0, concurrency=8)
    limit = Limit(server)

    async def main() -> None:
        with pytest.raises(RateLimited):
            await limit.generate(HELLO)
        server.down = None
        others = [asyncio.ensure_future(limit.generate(HELLO)) for _ in range(20)]
        await asyncio.sleep(2)
        assert "pausing 5 s after 429" in limit.status
        assert limit.room == 0
        await asyncio.gather(*others)

    run(main())
    assert isinstance(limit, Reporting)
    first, second = server.sent[:2]
    assert second - first >= 7.0


def test_refusals_without_a_wish_pause_longer_each_time() -> None:
    server = Simulated(down=RateLimited("slow down"), concurrency=1)
    run(keep_busy(Limit(server), 60))
    gaps = [later - sooner for sooner, later in pairwise(server.sent)]
    assert all(later > 1.5 * sooner for sooner, later in pairwise(gaps[:5]))


def test_a_cancelled_call_gives_its_slot_back() -> None:
    server = Simulated(concurrency=1, sigma=0.0)

    async def main() -> Completion:
        limit = Limit(server)
        calls = [asyncio.ensure_future(limit.generate(HELLO)) for _ in range(4)]
        await asyncio.sleep(0.1)
        calls[0].cancel()  # in flight
        calls[2].cancel()  # waiting
        await asyncio.sleep(0)
        calls[1].cancel()  # its turn has just come
        return await calls[3]

    assert run(main()).text == "fine"


def test_it_stands_for_its_teacher_and_wants_limits_that_can_be() -> None:
    limit = Limit(Fake(name="fake:a", concurrency=7))
    assert (limit.name, limit.concurrency) == ("fake:a", 7)
    assert not isinstance(limit, ScoringTeacher)
    for wrong in ({"rpm": 0}, {"tpm": -1}):
        with pytest.raises(ConfigError):
            Limit(Fake(), **wrong)


def over_http(teacher: OpenAI, number: int) -> list[Completion | BaseException]:
    async def main() -> list[Completion | BaseException]:
        await teacher.open(Path())
        try:
            asked = (teacher.generate(Request(user(f"Question {i}"))) for i in range(number))
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await teacher.aclose()

    return asyncio.run(main())


def test_a_server_that_counts_requests_and_tokens_has_nothing_to_refuse() -> None:
    with FakeOpenAI(rps=100, latency_ms=20) as server:
        time.sleep(1.0)  # its bucket fills
        results = over_http(OpenAI("m", base_url=server.url, rpm=40 * 60), 120)
        assert all(isinstance(r, Completion) for r in results)
        assert server.stats()["outcomes"] == {"ok": 120}
    with FakeOpenAI(tps=10_000, latency_ms=20) as server:  # about 150 tokens a call
        results = over_http(OpenAI("m", base_url=server.url, tpm=4_000 * 60), 70)
        assert all(isinstance(r, Completion) for r in results)
        assert server.stats()["outcomes"] == {"ok": 70}


@pytest.mark.slow
def test_a_server_with_a_limit_of_its_own_is_asked_within_it_and_nothing_is_lost() -> None:
    with FakeOpenAI(max_inflight=10, latency_ms=50, retry_after=0.05) as server:
        results = over_http(OpenAI("m", base_url=server.url), 300)
        stats = server.stats()
    assert all(isinstance(r, Completion) for r in results)
    assert stats["ok_repeated"] == 0
    assert stats["outcomes"]["429"] < 0.5 * 300
