"""A run folder as a teacher: the same data with nobody there to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest
from servers.run import FakeOpenAI

from kdaug import recipes
from kdaug.errors import ConfigError, TeacherError, Unrecorded
from kdaug.gate import Drop, Gate, Prepared
from kdaug.generator import Generate
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, assistant, user
from kdaug.running import Outcome, execute
from kdaug.source import Each, GrowingPool
from kdaug.stage import Stage
from kdaug.teacher import Completion, Request, Sampling, Teacher
from kdaug.teachers.fake import Fake
from kdaug.teachers.openai import OpenAI
from kdaug.teachers.replay import Replay


@dataclass(frozen=True)
class Draft:
    """Asks the same several times at once, and joins what comes."""

    name: ClassVar[str] = "draft"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> list[Record]:
        asked = "Go on from: " + " ".join(p.instruction[-40:] for p in parents)
        replies = await asyncio.gather(*(generate(asked) for _ in range(3)))
        text = " / ".join(r.text[:60] for r in replies)
        return [parents[0].child(*parents[1:], by=self.name, prompt=user(text), replies=replies)]


@dataclass(frozen=True)
class Answer:
    name: ClassVar[str] = "answer"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> list[Record]:
        reply = await generate(parents[0].prompt)
        return [parents[0].child(by=self.name, completion=assistant(reply.text), replies=[reply])]


class Liked(Gate):
    name = "liked"
    roles = ("judge",)

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        reply = await generate(f"Mark: {record.prompt[0].content}", role="judge")
        return Prepared(record.scored(liked=len(reply.text) % 3))

    def decide(self, prepared: Prepared) -> Drop | None:
        return None if prepared.record.scores["liked"] else Drop("liked:no")


SEEDS = [Record(prompt=user(f"seed {i}")) for i in range(12)]


def recipe(target: int = 40) -> Recipe:
    return Recipe(GrowingPool(SEEDS), [Stage(Draft()), Stage(Answer(), [Liked()])], target=target, seed=3)


def go(out: Path, recipe: Recipe, **teachers: Teacher) -> Outcome:
    return execute(recipe, out, teachers, log=Log(quiet=True))


def data(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "dataset/data").rglob("*.parquet"))}


def by_chance(request: Request) -> str | TeacherError:
    """Another answer each time, so that only a replay can repeat it; and now and then none."""
    rng = Random()
    from kdaug.errors import Refused

    return Refused("not that") if rng.random() < 0.03 else f"{rng.getrandbits(64):x}" * rng.randint(1, 3)


def test_a_run_is_replayed_with_its_server_gone(tmp_path: Path) -> None:
    with FakeOpenAI(seed=1, faults={"policy": 0.05}) as server:
        teacher = OpenAI("gpt-4o", base_url=server.url, concurrency=8, send_seed=True)
        first = go(tmp_path / "a", recipe(), teacher=teacher)
    again = go(tmp_path / "b", recipe(), teacher=recipes.teacher(f"replay:{tmp_path / 'a'}"))
    assert again.error is None
    assert data(tmp_path / "b") == data(tmp_path / "a") != {}
    for stage, before in zip(again.facts["stages"], first.facts["stages"], strict=True):
        assert {**stage, "usage": None} == {**before, "usage": None}
        assert stage["usage"]["cost"] == 0.0  # a replay sends no bill
    for out in (tmp_path / "a", tmp_path / "b"):
        card = (out / "dataset" / "README.md").read_text("utf-8")
        assert "license_name: terms-of-the-teachers" in card  # the terms of the model behind the replies
        assert "`openai:gpt-4o`" in card


@pytest.mark.parametrize(("slots", "jitter"), [(5, 0.0), (16, 0.01)])
def test_equal_requests_get_their_own_replies_whatever_the_order(tmp_path: Path, slots: int, jitter: float) -> None:
    """Each job asks three times the same, and the teacher never answers twice alike."""
    real = Fake(by_chance, name="chance", concurrency=slots, jitter=jitter)
    judge = Fake(by_chance, name="critic", concurrency=3)
    first = go(tmp_path / "a", recipe(), teacher=real, judge=judge)
    assert first.facts["stages"][1]["dropped"]
    for number in range(2):
        again = go(
            tmp_path / f"b{number}",
            recipe(),
            teacher=Replay(tmp_path / "a"),
            judge=Replay(tmp_path / "a", role="judge"),
        )
        assert again.error is None
        assert data(tmp_path / f"b{number}") == data(tmp_path / "a")
        assert again.facts["usage"].keys() == {"chance", "critic"}


def test_a_replay_can_be_replayed_and_resumed(tmp_path: Path) -> None:
    go(tmp_path / "a", recipe(), teacher=Fake(by_chance, name="chance", concurrency=4))
    go(tmp_path / "b", recipe(20), teacher=Replay(tmp_path / "a"))
    go(tmp_path / "b", recipe(40), teacher=Replay(tmp_path / "a"))
    go(tmp_path / "c", recipe(), teacher=Replay(tmp_path / "b"))
    assert data(tmp_path / "a") == data(tmp_path / "b") == data(tmp_path / "c")


def test_what_the_run_never_asked_stops_the_replay_and_says_so(tmp_path: Path) -> None:
    seeds = SEEDS[:4]
    go(tmp_path / "a", Recipe(Each(seeds), [Stage(Answer())]), teacher=Fake(by_chance, name="chance"))
    more = Recipe(Each([*seeds, Record(prompt=user("a new seed"))]), [Stage(Answer())])
    outcome = go(tmp_path / "b", more, teacher=Replay(tmp_path / "a"))
    assert isinstance(outcome.error, Unrecorded)
    assert "a new seed" in str(outcome.error)
    assert str(tmp_path / "a") in str(outcome.error)
    assert outcome.facts["status"] == "failed"


def test_another_recipe_gets_the_replies_that_fit_always_the_same(tmp_path: Path) -> None:
    """The first stage is gone, so every place is another one; what is asked is not."""
    seeds = SEEDS[:4]
    twice = Recipe(Each([*seeds, *(r.child(by="copy", meta={"copy": 1}) for r in seeds)]), [Stage(Answer())])
    go(tmp_path / "a", twice, teacher=Fake(lambda request: f"{Random().getrandbits(64):x}", name="chance"))
    found = []
    for order in (seeds, seeds[::-1]):
        replies = asyncio.run(_all(Replay(tmp_path / "a"), [Request(r.prompt, nonce=7) for r in order]))
        found.append({r.prompt: reply.text for r, reply in zip(order, replies, strict=True)})
    assert found[0] == found[1]
    with pytest.raises(Unrecorded):
        asyncio.run(_all(Replay(tmp_path / "a"), [Request(seeds[0].prompt, Sampling(temperature=0.1))]))


async def _all(teacher: Teacher, requests: Sequence[Request]) -> list[Completion]:
    await teacher.open(Path())
    try:
        return await asyncio.gather(*map(teacher.generate, requests))
    finally:
        await teacher.aclose()


def test_what_is_no_run_or_had_no_such_role_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        Replay(tmp_path)
    go(tmp_path / "a", Recipe(Each(SEEDS), [Stage(Answer())]), teacher=Fake(by_chance))
    with pytest.raises(ConfigError, match="teacher"):
        Replay(tmp_path / "a", role="student")
    with pytest.raises(ConfigError, match="replay:FOLDER"):
        recipes.teacher("replay:")
