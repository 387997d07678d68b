"""The OpenAI teacher is whole by itself: it keeps limits, tries again, and gives up so that a run can be resumed."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
from servers.run import FakeOpenAI, free_port

import kdaug as kd
from kdaug.errors import AccessDenied, TeacherUnavailable
from kdaug.record import Record, user
from kdaug.teacher import Completion, Request
from kdaug.teachers.endpoint import Endpoint
from kdaug.teachers.limit import Limit


def ask(teacher: kd.OpenAI, *prompts: str) -> list[Completion | BaseException]:
    async def main() -> list[Completion | BaseException]:
        await teacher.open(Path())
        try:
            return await asyncio.gather(*(teacher.generate(Request(user(p))) for p in prompts), return_exceptions=True)
        finally:
            await teacher.aclose()

    return asyncio.run(main())


def test_it_has_every_field_of_its_endpoint_and_hands_it_on() -> None:
    fields = {field.name: field for field in dataclasses.fields(kd.OpenAI)}
    for field in dataclasses.fields(Endpoint):
        assert fields[field.name].default == field.default
    given = {"base_url": "http://h/v1", "api_key_env": "K", "concurrency": 3, "timeout": 4.0, "send_seed": True}
    limit = kd.OpenAI("m", **given, extra_body={"a": 1}).once
    assert isinstance(limit, Limit)
    endpoint = limit.teacher
    assert isinstance(endpoint, Endpoint)
    assert {name: getattr(endpoint, name) for name in given} == given
    assert endpoint.extra_body == {"a": 1}


def test_nothing_is_lost_under_faults_without_a_wrapper() -> None:
    faults = dict.fromkeys(("429", "500", "503", "reset", "trunc", "blank", "html"), 0.02)
    with FakeOpenAI(faults=faults, retry_after=0.01) as server:
        results = ask(kd.OpenAI("m", base_url=server.url), *(f"Question {i}" for i in range(200)))
        stats = server.stats()
    assert all(isinstance(r, Completion) for r in results)
    assert (stats["ok_distinct"], stats["ok_repeated"]) == (200, 0)


def test_a_wrong_key_costs_one_call() -> None:
    with FakeOpenAI(api_key="another") as server:
        errors = ask(kd.OpenAI("m", base_url=server.url), *(f"Question {i}" for i in range(64)))
        assert {type(e) for e in errors} == {AccessDenied}
        assert server.stats()["total"] == 1


def test_a_wrong_address_is_given_up_after_its_patience() -> None:
    teacher = kd.OpenAI("m", base_url=f"http://127.0.0.1:{free_port()}/v1", patience=0.2)
    errors = ask(teacher, *(f"Question {i}" for i in range(100)))
    assert {type(e) for e in errors} == {TeacherUnavailable}
    assert "tried" in str(errors[0])


def test_a_run_over_a_server_that_dies_stops_and_goes_on_from_there(tmp_path: Path) -> None:
    port, seeds = free_port(), [Record(prompt=user(f"Question {i}")) for i in range(150)]

    def recipe() -> kd.Recipe:
        return kd.Recipe(kd.Each(seeds), [kd.Stage(kd.Respond())])

    def teacher() -> kd.OpenAI:
        return kd.OpenAI("m", base_url=f"http://127.0.0.1:{port}/v1", concurrency=8, patience=0.5)

    async def interrupted(server: FakeOpenAI) -> None:
        task = asyncio.ensure_future(kd.arun(recipe(), tmp_path / "run", teacher=teacher(), quiet=True))
        await asyncio.sleep(1.0)
        server.stop()
        with pytest.raises(TeacherUnavailable):
            await task

    with FakeOpenAI(port=port, latency_ms=150) as server:
        asyncio.run(interrupted(server))
    with FakeOpenAI(port=port) as server:
        data = kd.run(recipe(), tmp_path / "run", teacher=teacher(), quiet=True)
        assert len(list(data)) == 150
        assert 0 < server.stats()["total"] < 150
