"""The OpenAI teacher is whole by itself: it keeps limits, tries again, and gives up so that a run can be resumed."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from servers.run import FakeOpenAI, free_port

import kdaug as kd
from kdaug.errors import AccessDenied, ConfigError, TeacherTimeout, TeacherUnavailable
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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"timeout": "30"}, "OpenAI: timeout is '30': expected float"),
        ({"concurrency": "x"}, "OpenAI: concurrency is 'x': expected int"),
        ({"concurrency": 2.5}, "OpenAI: concurrency is 2.5: expected int"),
        ({"extra_body": 5}, "OpenAI: extra_body is 5: expected a mapping"),
        ({"rpm": "many"}, r"OpenAI: rpm is 'many': expected float \| None"),
        ({"tries": None}, "OpenAI: tries is None: expected int"),
        ({"base_url": None}, "OpenAI: base_url is None: expected str"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        kd.OpenAI("m", **given)


def test_it_takes_what_fits(tmp_path: Path) -> None:
    kd.OpenAI("m", timeout=30, api_key_file=tmp_path / "key", extra_body={"a": None}, rpm=5, tokenizer=None)
    with pytest.raises(ConfigError, match="OpenAI: model is None"):
        kd.OpenAI(None)  # type: ignore[arg-type] # as a user may


def test_it_says_how_long_the_oldest_call_has_been_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdaug.teachers.oldest.LONG", 0.1)

    async def main(server: FakeOpenAI) -> None:
        teacher = kd.OpenAI("m", base_url=server.url, timeout=1.0, tries=2)
        await teacher.open(Path())
        asked = asyncio.ensure_future(teacher.generate(Request(user("@@FAIL:hang@@"))))
        assert teacher.status == ""
        await asyncio.sleep(0.6)
        assert teacher.status == "oldest call 1 s of 1 s"
        await asyncio.sleep(1.2)
        assert teacher.status.startswith("1 tried again after a timeout")
        with pytest.raises(TeacherTimeout, match=r"no complete reply in time \(timeout=1\)"):
            await asked
        assert teacher.status == ""
        await teacher.aclose()

    with FakeOpenAI() as server:
        asyncio.run(main(server))
