"""The batch teacher against a server that speaks the Files and Batches API, by the real `openai` client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.run import FakeBatches

from kdaug.calls import Closing
from kdaug.errors import (
    AccessDenied,
    BadRequest,
    BudgetExceeded,
    ConfigError,
    ServerError,
    TeacherError,
    TeacherTimeout,
    TeacherUnavailable,
)
from kdaug.record import user
from kdaug.teacher import Completion, Request, Sampling, Usage
from kdaug.teachers import batch_api
from kdaug.teachers.batch import Batch

KEY = "sk-secret-0123456789"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBatches]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeBatches() as server:
        yield server


def batch(server: FakeBatches, **fields: Any) -> Batch:
    return Batch("m", **{"base_url": server.url, "poll": 0.02, "settle": 0.2, **fields})


Result = Completion | BaseException


def asked(*texts: str) -> list[Request]:
    return [Request(user(text)) for text in texts]


async def start(teacher: Batch, requests: list[Request]) -> list[asyncio.Task[Completion]]:
    """The calls, made but not sent."""
    tasks = [asyncio.create_task(teacher.generate(request)) for request in requests]
    await asyncio.sleep(0)
    return tasks


def results(teacher: Batch, state: Path, requests: list[Request], *, flush: bool = True) -> list[Result]:
    async def main() -> list[Result]:
        await teacher.open(state)
        try:
            calls = await start(teacher, requests)
            if flush:
                await teacher.flush()
            return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 90)
        finally:
            await teacher.aclose()

    return asyncio.run(main())


def abandoned(teacher: Batch, state: Path, requests: list[Request], server: FakeBatches, step: str) -> list[Result]:
    """The calls of a process that is ended in the middle of a step."""

    async def main() -> list[Result]:
        await teacher.open(state)
        calls = await start(teacher, requests)
        await teacher.flush()
        await asyncio.to_thread(server.wait_for, step)
        await teacher.aclose()
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(main())


def texts(found: list[Result]) -> list[str]:
    assert all(isinstance(f, Completion) for f in found), found
    return [f.text for f in found if isinstance(f, Completion)]


def test_what_is_held_goes_as_one_batch_and_every_reply_finds_its_caller(server: FakeBatches, tmp_path: Path) -> None:
    requests = [Request(user(f"q{i}"), Sampling(temperature=0.5, max_tokens=9), nonce=i) for i in range(20)]
    found = results(batch(server, extra_body={"reasoning_effort": "low"}), tmp_path, requests)
    assert texts(found) == [f"Answer to: q{i}\u2028(the end)" for i in range(20)]
    assert isinstance(found[0], Completion) and found[0].usage == Usage(2, 7)
    stats = server.stats()
    [sent] = stats["batches"]
    assert (sent["endpoint"], sent["completion_window"]) == ("/v1/chat/completions", "24h")
    first = json.loads(next(iter(stats["inputs"].values())).splitlines()[0])
    assert (first["method"], first["url"]) == ("POST", "/v1/chat/completions")
    assert first["body"] == {
        "model": "m",
        "messages": [{"role": "user", "content": "q0"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 1.0,
        "reasoning_effort": "low",
    }
    assert list(tmp_path.glob("*.jsonl")) == []


def test_nothing_is_sent_before_the_flush(server: FakeBatches, tmp_path: Path) -> None:
    async def main() -> None:
        teacher = batch(server)
        await teacher.open(tmp_path)
        calls = await start(teacher, asked("a"))
        await asyncio.sleep(0.2)
        assert server.stats()["inputs"] == {}
        await teacher.aclose()
        assert isinstance((await asyncio.gather(*calls, return_exceptions=True))[0], Closing)
        with pytest.raises(Closing):
            await teacher.generate(Request(user("b")))

    asyncio.run(main())


@pytest.mark.parametrize("limit", [{"batch_requests": 4}, {"batch_mb": 0.0009}])
def test_more_than_the_provider_takes_is_cut(server: FakeBatches, tmp_path: Path, limit: dict[str, Any]) -> None:
    found = results(batch(server, **limit), tmp_path, asked(*(f"q{i}" for i in range(10))))
    assert texts(found) == [f"Answer to: q{i}\u2028(the end)" for i in range(10)]
    assert sorted(b["request_counts"]["total"] for b in server.stats()["batches"]) == [2, 4, 4]


def test_equal_requests_are_told_apart_by_their_nonce(server: FakeBatches, tmp_path: Path) -> None:
    equal = [Request(user("same"), nonce=n) for n in (1, 2, 2)]
    assert len(texts(results(batch(server), tmp_path, equal))) == 3
    assert len(server.stats()["executed"]) == 2


# -- failures ------------------------------------------------------------------------------------------------------


def test_a_failed_row_is_its_own_error(server: FakeBatches, tmp_path: Path) -> None:
    server.configure(errors={"bad": 400, "gone": 404})
    good, bad, gone = results(batch(server), tmp_path, asked("good", "bad", "gone"))
    assert isinstance(good, Completion)
    assert isinstance(bad, BadRequest) and bad.teacher == "batch:m" and "injected 400" in str(bad)
    assert isinstance(gone, BadRequest)
    assert len(server.stats()["batches"]) == 1


@pytest.mark.parametrize("status", [500, 429, -1])
def test_a_row_that_fails_for_a_passing_reason_goes_into_another_batch(
    server: FakeBatches, tmp_path: Path, status: int
) -> None:
    server.configure(errors={"bad": status})
    paid: list[tuple[str, type[TeacherError]]] = []

    async def again(request: Request, failed: TeacherError | None = None) -> None:
        assert failed is not None
        paid.append((request.messages[0].content, type(failed)))

    requests = [Request(user(text), again=again) for text in ("good", "bad")]
    good, bad = results(batch(server, tries=3), tmp_path, requests)
    assert isinstance(good, Completion)
    assert isinstance(bad, TeacherError) and bad.retryable
    assert paid == [("bad", type(bad))] * 2
    assert sorted(server.stats()["executed"].values()) == [1, 3]


def test_where_no_money_is_left_nothing_is_sent_again(server: FakeBatches, tmp_path: Path) -> None:
    server.configure(errors={"bad": 500})

    async def again(request: Request, failed: TeacherError | None = None) -> None:
        raise BudgetExceeded("max_cost is reached", "max_cost")

    [bad] = results(batch(server), tmp_path, [Request(user("bad"), again=again)])
    assert isinstance(bad, BudgetExceeded)
    assert len(server.stats()["batches"]) == 1


def test_of_an_expired_batch_the_finished_rows_are_used_and_the_rest_is_sent_again(
    server: FakeBatches, tmp_path: Path
) -> None:
    server.configure(outcomes=["expired", "completed"])
    paid: list[str] = []

    async def again(request: Request, failed: TeacherError | None = None) -> None:
        paid.append(request.messages[0].content)

    requests = [Request(user(f"q{i}"), again=again) for i in range(10)]
    found = results(batch(server), tmp_path, requests)
    assert texts(found) == [f"Answer to: q{i}\u2028(the end)" for i in range(10)]
    stats = server.stats()
    assert [b["request_counts"]["total"] for b in stats["batches"]] == [10, 5]
    assert paid == [f"q{i}" for i in range(5, 10)]
    assert set(stats["executed"].values()) == {1}


def test_what_always_expires_is_given_up(server: FakeBatches, tmp_path: Path) -> None:
    server.configure(outcomes=["expired"])
    [found] = results(batch(server, tries=2), tmp_path, asked("a"))
    assert isinstance(found, TeacherTimeout)
    assert len(server.stats()["batches"]) == 2


def test_a_batch_that_is_refused_stops_the_run_in_the_providers_words(server: FakeBatches, tmp_path: Path) -> None:
    server.configure(outcomes=["failed", "completed"])
    found = results(batch(server), tmp_path, asked("a", "b"))
    for error in found:
        assert isinstance(error, AccessDenied)
        assert "batch_0 was refused as a whole: line 2: invalid_json_line: This line is not parseable" in str(error)
    # Once its cause is gone, the same requests are sent anew.
    assert len(texts(results(batch(server), tmp_path, asked("a", "b")))) == 2


def test_a_batch_cancelled_at_the_provider_stops_the_run_and_keeps_what_is_done(
    server: FakeBatches, tmp_path: Path
) -> None:
    server.configure(outcomes=["cancelled", "completed"])
    found = results(batch(server), tmp_path, asked("a", "b", "c", "d"))
    assert [type(f) for f in found] == [Completion, Completion, TeacherUnavailable, TeacherUnavailable]
    assert "batch_0 was cancelled, 2 of its 4 requests are unanswered" in str(found[2])
    assert len(texts(results(batch(server), tmp_path, asked("a", "b", "c", "d")))) == 4
    assert set(server.stats()["executed"].values()) == {1}


def test_a_wrong_key_is_denied_and_shown_nowhere(server: FakeBatches, tmp_path: Path) -> None:
    server.configure(api_key="another")
    [error] = results(batch(server), tmp_path, asked("a"))
    assert isinstance(error, AccessDenied)
    assert "batch:m at 127.0.0.1" in str(error) and "401" in str(error) and KEY not in str(error)
    server.configure()
    assert len(texts(results(batch(server), tmp_path, asked("a")))) == 1


def test_nobody_there_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "SHORT_OF_PATIENCE", 0.0)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    [error] = results(Batch("m", base_url="http://127.0.0.1:9/v1"), tmp_path, asked("a"))
    assert isinstance(error, TeacherUnavailable) and "no connection" in str(error)


def test_an_outage_that_passes_is_waited_out(server: FakeBatches, tmp_path: Path) -> None:
    async def main() -> None:
        teacher = batch(server)
        server.configure(fail={"upload": 503})
        await teacher.open(tmp_path)
        calls = await start(teacher, asked("a"))
        await teacher.flush()
        await asyncio.sleep(0.3)
        server.configure(fail={"content": 502})
        await asyncio.sleep(1.5)
        server.configure()
        assert texts(await asyncio.gather(*calls, return_exceptions=True))
        await teacher.aclose()

    asyncio.run(main())


def test_a_creation_whose_reply_was_lost_is_not_made_twice(server: FakeBatches, tmp_path: Path) -> None:
    server.configure(fail={"create_after": 500})
    assert len(texts(results(batch(server), tmp_path, asked("a", "b")))) == 2
    assert len(server.stats()["batches"]) == 1


@pytest.mark.parametrize("outcome", ["cancelled", "failed"])
def test_a_batch_that_ended_badly_between_two_runs_does_not_stop_the_second(
    server: FakeBatches, tmp_path: Path, outcome: str
) -> None:
    server.configure(stay="validating")
    abandoned(batch(server), tmp_path, asked("a", "b"), server, "validating")
    server.configure(outcomes=[outcome, "completed"])
    if outcome == "cancelled":
        server.cancel("batch_0")
    assert len(texts(results(batch(server), tmp_path, asked("a", "b")))) == 2


# -- a process after another -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["upload_before", "upload_after"])
def test_what_was_never_created_is_sent_by_the_next_process(server: FakeBatches, tmp_path: Path, step: str) -> None:
    server.configure(pause={step: 0.5})
    assert [type(f) for f in abandoned(batch(server), tmp_path, asked("a"), server, step)] == [Closing]
    server.configure()
    assert len(texts(results(batch(server), tmp_path, asked("a")))) == 1
    assert list(server.stats()["executed"].values()) == [1]


@pytest.mark.parametrize("step", ["create_before", "create_after", "validating", "in_progress", "content"])
def test_what_was_created_is_found_again(server: FakeBatches, tmp_path: Path, step: str) -> None:
    """`create_before`: the creation comes to pass after its process is gone, and after the next one has looked."""
    server.configure(pause={step: 0.5}, stay=step)
    found = abandoned(batch(server), tmp_path, asked("a", "b", "c"), server, step)
    assert {type(f) for f in found} == {Closing}
    server.configure()
    # Another order and one more: nothing depends on how the requests come.
    found = results(batch(server, settle=3.0), tmp_path, asked("d", "c", "b", "a"))
    assert texts(found) == [f"Answer to: {t}\u2028(the end)" for t in "dcba"]
    stats = server.stats()
    assert sorted(b["request_counts"]["total"] for b in stats["batches"]) == [1, 3]
    assert set(stats["executed"].values()) == {1}


def test_a_creation_that_never_comes_to_pass_is_made_anew(server: FakeBatches, tmp_path: Path) -> None:
    server.configure(pause={"create_before": 1000.0})
    abandoned(batch(server), tmp_path, asked("a"), server, "create_before")
    server.configure()
    assert len(texts(results(batch(server), tmp_path, asked("a")))) == 1
    assert len(server.stats()["batches"]) == 1


def test_a_batch_is_found_among_many(server: FakeBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdaug.teachers.batch_api.PAGE", 5)
    server.configure(pause={"create_after": 0.5})
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").mkdir()
    abandoned(batch(server), tmp_path / "mine", asked("a"), server, "create_after")
    server.configure()
    results(batch(server, batch_requests=1), tmp_path / "other", asked(*(f"q{i}" for i in range(12))))
    assert len(texts(results(batch(server), tmp_path / "mine", asked("a")))) == 1
    assert len(server.stats()["batches"]) == 13


def test_replies_that_came_are_kept_for_whoever_asks_again(server: FakeBatches, tmp_path: Path) -> None:
    """A kill after the download, before the journal had it: no batch runs, no flush is needed."""
    results(batch(server), tmp_path, asked("a", "b"))
    looks = server.stats()["looks"]
    assert len(texts(results(batch(server), tmp_path, asked("b"), flush=False))) == 1
    assert server.stats()["looks"] == looks


def test_replies_are_forgotten_two_flushes_later(server: FakeBatches, tmp_path: Path) -> None:
    async def main() -> None:
        teacher = batch(server)
        await teacher.open(tmp_path)
        for text in "abc":
            [call] = await start(teacher, asked(text))
            await teacher.flush()
            await call
        assert teacher._ledger is not None
        names = [f"{request.digest(teacher.name)}-00000000" for request in asked("a", "b", "c")]
        assert [teacher._ledger.find(name) is not None for name in names] == [False, True, True]
        await teacher.aclose()

    asyncio.run(main())


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_mistakes_are_named_before_any_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        asyncio.run(Batch("gpt-x").open(tmp_path))
    with pytest.raises(ConfigError, match="poll"):
        Batch("gpt-x", poll=0)
    with pytest.raises(ConfigError, match="not open"):
        asyncio.run(Batch("gpt-x").generate(Request(user("a"))))


def test_what_the_api_cannot_be_asked_is_refused_at_once(server: FakeBatches, tmp_path: Path) -> None:
    [error] = results(batch(server), tmp_path, [Request(user("a"), Sampling(logprobs=5))])
    assert isinstance(error, BadRequest)
    assert server.stats()["inputs"] == {}


def test_a_row_error_of_the_server_is_retryable() -> None:
    assert isinstance(batch_api.read_row(b'{"error": {"code": "x", "message": "y"}}'), ServerError)
