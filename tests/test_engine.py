"""The engine's promises: order, resume, exactly N, and failures that are data."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest

from kdaug.errors import AccessDenied, BadRequest, ConfigError, ParseError, TeacherError, TeacherUnavailable
from kdaug.gate import Drop, Gate, Prepared
from kdaug.generator import Generate
from kdaug.generators.pass_through import Pass
from kdaug.journal import Journal
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Discarded, Record, assistant, user
from kdaug.running import Outcome, execute
from kdaug.source import Each, GrowingPool
from kdaug.stage import Stage
from kdaug.teacher import Completion, Request
from kdaug.teachers.fake import Fake


@dataclass(frozen=True)
class Propose:
    """Asks for a list; a growing pool feeds it."""

    name: ClassVar[str] = "propose"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> list[Record | Discarded]:
        demos = rng.sample(list(parents), len(parents))
        reply = await generate("LIST " + " | ".join(d.instruction for d in demos))
        items = re.findall(r"\w+ \d+", reply.text)
        if not items:
            raise ParseError("list", reply.text)
        made: list[Record | Discarded] = [
            parents[0].child(*parents[1:], by=self.name, prompt=user(i), replies=[reply]) for i in items
        ]
        made.append(Discarded(parents[0].child(by=self.name, prompt=user("x " + reply.text)), Drop("propose:extra")))
        return made


@dataclass(frozen=True)
class Answer:
    """Two calls in turn and a fan-out of equal ones: occurrences and scopes matter."""

    samples: int = 2
    name: ClassVar[str] = "answer"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> list[Record]:
        (parent,) = parents
        replies = await asyncio.gather(*(generate(parent.prompt) for _ in range(self.samples)))
        best = await generate(f"BEST of {' or '.join(r.text for r in replies)}")
        return [parent.child(by=self.name, completion=assistant(best.text), replies=[*replies, best])]


class FirstLetter(Gate):
    """Keeps one record for each beginning; remembers, as a deduper does."""

    name = "first_letter"

    def __init__(self, length: int = 6) -> None:
        self.length = length

    def start(self, seeds: Sequence[Record]) -> FirstLetter:
        live = FirstLetter(self.length)
        live.seen = {}
        return live

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        await asyncio.sleep(0)
        return Prepared(record.scored(length=len(record.instruction)), record.prompt[0].content[: self.length])

    def decide(self, prepared: Prepared) -> Drop | None:
        twin = self.seen.get(prepared.evidence)
        return None if twin is None else Drop("first_letter:seen", {"twin": twin})

    def remember(self, prepared: Prepared) -> None:
        self.seen[prepared.evidence] = prepared.record.id


class Grade(Gate):
    """Asks the judge."""

    name = "grade"
    roles = ("judge",)

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        reply = await generate(f"GRADE {record.prompt[0].content}", role="judge")
        return Prepared(record.scored(grade=len(reply.text)))

    def decide(self, prepared: Prepared) -> Drop | None:
        score = prepared.record.scores["grade"]
        return Drop("grade:even", {"score": score}) if score % 2 == 0 else None


def scripted(request: Request) -> str | TeacherError:
    text = request.messages[-1].content
    rng = Random(f"{text}{request.nonce}")
    if text.startswith("LIST"):
        return " ".join(f"task {rng.randrange(3000)}" for _ in range(6)) if rng.random() > 0.05 else "no list"
    if rng.random() < 0.05:
        return BadRequest("scripted")
    return "x" * rng.randint(1, 40)


def fake(**more: float) -> Fake:
    return Fake(scripted, name="scripted", concurrency=8, **more)


SEEDS = [Record(prompt=user(f"seed {i}")) for i in range(20)]


def pool(target: int = 60, **more: int) -> Recipe:
    stages = [Stage(Propose(), [FirstLetter(9)]), Stage(Answer(), [Grade()])]
    return Recipe(GrowingPool(SEEDS), stages, target=target, **more)


def each(seeds: Sequence[Record] = SEEDS, **more: int) -> Recipe:
    return Recipe(Each(seeds), [Stage(Answer(), [FirstLetter(7)])], **more)


def go(recipe: Recipe, out: Path, teacher: Fake | None = None) -> Outcome:
    return execute(recipe, out, {"teacher": teacher or fake()}, log=Log(quiet=True))


def data(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "dataset/data").rglob("*.parquet"))}


def dropped(outcome: Outcome) -> Counter[str]:
    return sum((Counter(s["dropped"]) for s in outcome.facts["stages"]), Counter())


@pytest.mark.parametrize("recipe", [pool(), each()], ids=["pool", "each"])
def test_output_depends_neither_on_latency_nor_on_an_earlier_run(recipe: Recipe, tmp_path: Path) -> None:
    go(recipe, tmp_path / "a", fake(jitter=0.0))
    go(recipe, tmp_path / "b", fake(jitter=0.01))
    assert data(tmp_path / "a") == data(tmp_path / "b")
    assert data(tmp_path / "a")


@pytest.mark.parametrize("recipe", [pool(), each()], ids=["pool", "each"])
def test_a_run_that_breaks_again_and_again_ends_with_the_same_data(recipe: Recipe, tmp_path: Path) -> None:
    whole = go(recipe, tmp_path / "whole")
    asked, breaks = 0, 0
    while True:
        calls = count()
        until = Random(breaks).randrange(3, 25)

        def breaking(request: Request, calls: Iterator[int] = calls, until: int = until) -> str | TeacherError:
            return TeacherUnavailable("power cut") if next(calls) >= until else scripted(request)

        teacher = Fake(breaking, name="scripted", concurrency=8, jitter=0.003)
        outcome = go(recipe, tmp_path / "broken", teacher)
        asked += len(teacher.calls)
        if outcome.error is None:
            break
        assert isinstance(outcome.error, TeacherUnavailable)
        breaks += 1
    assert breaks >= 3
    assert data(tmp_path / "broken") == data(tmp_path / "whole")
    assert outcome.facts["kept"] == whole.facts["kept"]
    used = outcome.facts["usage"]["scripted"]["calls"]
    # Every answered call is in the journal once; beyond them only the calls that met the power cut were sent.
    assert used <= asked <= used + breaks * 8


def test_a_finished_run_asks_nothing_again(out: Path) -> None:
    first = go(pool(), out)
    before, teacher = data(out), fake()
    again = go(pool(), out, teacher)
    assert teacher.calls == []
    assert data(out) == before
    assert again.facts["stages"] == first.facts["stages"]
    assert again.exit_code == 0


class Rolls(Gate):
    """Rolls a die twice, outside of what the run can know, once before and once after the judge is asked."""

    name = "rolls"
    roles = ("judge",)
    rolled: ClassVar[list[int]] = []

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        async def roll() -> list[int]:
            self.rolled.append(len(self.rolled))
            return [self.rolled[-1]]

        first = await generate.once(["die", 6], roll)
        await generate(f"GRADE {record.prompt[0].content}", role="judge")
        second = await generate.once(["die", 6], roll)
        return Prepared(record, Drop("rolls:said", {"first": first, "second": second}))


def test_what_was_done_elsewhere_than_at_a_teacher_is_not_done_again(out: Path) -> None:
    recipe = Recipe(Each(SEEDS), [Stage(Pass(), [Rolls()])])
    Rolls.rolled.clear()
    calls = count()

    def breaking(request: Request) -> str | TeacherError:
        return TeacherUnavailable("power cut") if next(calls) >= 8 else "fine"

    assert isinstance(go(recipe, out, Fake(breaking, concurrency=4)).error, TeacherUnavailable)
    rolled = len(Rolls.rolled)
    assert rolled > 8
    whole = go(recipe, out, Fake(lambda request: "fine", concurrency=4))
    assert whole.error is None and whole.facts["stages"][0]["dropped"] == {"rolls:said": len(SEEDS)}
    journal = Journal.read_only(out)
    said = [drop.drop.detail[when] for _, drop in journal.dropped(0) for when in ("first", "second")]
    journal.close()
    assert sorted(n for one in said for n in one) == list(range(2 * len(SEEDS))) == Rolls.rolled  # type: ignore[union-attr, misc] # lists


def test_exactly_n_and_a_higher_target_goes_on_as_if_it_had_been_so_from_the_start(tmp_path: Path) -> None:
    go(pool(target=30), tmp_path / "grown")
    assert go(pool(target=30), tmp_path / "grown").facts["kept"] == 30
    # The window is kept with the run, so only a source that does not grow can promise equal bytes.
    few, many = each(target=5), each(target=12)
    assert len(go(few, tmp_path / "a").dataset) == 5
    assert len(go(many, tmp_path / "a").dataset) == 12
    go(many, tmp_path / "b")
    assert data(tmp_path / "a") == data(tmp_path / "b")
    assert len(go(few, tmp_path / "a").dataset) == 5


def test_a_target_that_is_not_met_is_said_by_exit_code_3(out: Path) -> None:
    outcome = go(each(target=1000), out)
    assert (outcome.exit_code, outcome.facts["status"], outcome.facts["ended_by"]) == (3, "stopped", "source")
    capped = go(each(max_jobs=4), out.with_name("capped"))
    assert (capped.exit_code, capped.facts["ended_by"]) == (3, "max_jobs")
    assert capped.facts["stages"][0]["jobs"] == 4
    more = go(each(), out.with_name("capped"))
    assert more.exit_code == 0
    assert more.facts["stages"][0]["jobs"] == len(SEEDS)


def test_failures_of_one_record_are_drops_with_their_reason(out: Path) -> None:
    reasons = dropped(go(pool(), out))
    assert reasons["parse:list"] > 0
    assert reasons["teacher:bad_request"] > 0
    assert reasons["propose:extra"] > 0
    assert reasons["first_letter:seen"] > 0
    assert reasons["grade:even"] > 0


def test_a_failed_gate_call_drops_its_own_child_only(out: Path) -> None:
    @dataclass(frozen=True)
    class Twins(Answer):
        async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> list[Record]:
            return [parents[0].child(by="twins", prompt=user(w)) for w in ("good", "bad", "fine")]

    def judge(request: Request) -> str | TeacherError:
        return BadRequest("no") if "bad" in request.messages[-1].content else "odd"

    outcome = go(Recipe(Each(SEEDS[:1]), [Stage(Twins(), [Grade()])]), out, Fake(judge))
    assert [r.prompt[0].content for r in outcome.dataset] == ["good", "fine"]
    assert dropped(outcome) == {"teacher:bad_request": 1}


def test_a_wrong_key_stops_the_run_which_then_goes_on_with_the_right_one(out: Path) -> None:
    stopped = go(each(), out, Fake(lambda r: AccessDenied("wrong key"), name="scripted"))
    assert stopped.exit_code == 1
    assert isinstance(stopped.error, AccessDenied)
    assert stopped.facts["stages"][0]["jobs"] == 0
    go(each(), out)
    go(each(), out.with_name("other"))
    assert data(out) == data(out.with_name("other"))


def test_a_teacher_that_fails_on_most_records_stops_the_run(out: Path) -> None:
    seeds = [Record(prompt=user(f"s{i}")) for i in range(300)]
    outcome = go(each(seeds), out, Fake(lambda r: BadRequest("always")))
    assert isinstance(outcome.error, TeacherUnavailable)
    assert "always" in str(outcome.error)
    assert 40 < outcome.facts["stages"][0]["jobs"] < 60


def test_a_bug_in_a_generator_is_raised_as_it_is(out: Path) -> None:
    class Buggy(Answer):
        async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> list[Record]:
            raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"):
        go(Recipe(Each(SEEDS), [Stage(Buggy())]), out)
    assert len(go(each(), out.with_name("fresh")).dataset) > 0


def test_a_folder_of_another_recipe_is_refused_and_says_what_differs(out: Path) -> None:
    go(each(), out)
    with pytest.raises(ConfigError, match=r"stages\.0\.gates\.0\.length: 7 -> 8"):
        go(Recipe(Each(SEEDS), [Stage(Answer(), [FirstLetter(8)])]), out)
    with pytest.raises(ConfigError, match="seeds"):
        go(each(SEEDS[1:]), out)


def test_a_missing_role_is_found_before_any_call(out: Path) -> None:
    @dataclass(frozen=True)
    class Draft(Answer):
        roles: ClassVar[tuple[str, ...]] = ("teacher", "student")

    with pytest.raises(ConfigError, match="--student"):
        go(Recipe(Each(SEEDS), [Stage(Draft())]), out)
    assert not out.exists()


def test_the_teacher_never_has_more_in_flight_than_its_slots(out: Path) -> None:
    teacher = fake(jitter=0.002)
    go(each([Record(prompt=user(f"s{i}")) for i in range(100)]), out, teacher)
    assert teacher.peak == 8


def test_two_runs_cannot_write_to_one_folder(out: Path) -> None:
    out.mkdir()
    first = Journal(out)
    try:
        with pytest.raises(ConfigError, match="another run"):
            go(each(), out)
    finally:
        first.close()


def test_held_out_seeds_never_meet_the_others(out: Path) -> None:
    recipe = Recipe(GrowingPool(SEEDS), pool().stages, target=60, holdout=0.3)
    outcome = go(recipe, out)
    sides = {
        split: {root for r in outcome.dataset.records(split=split) for root in r.roots} for split in ("train", "test")
    }
    assert sides["train"] and sides["test"]
    assert not sides["train"] & sides["test"]
    assert outcome.facts["left_out"] == {}
    assert len(outcome.dataset) == 60


def test_the_journal_says_what_the_seeds_and_the_replies_were(out: Path) -> None:
    record = next(iter(go(pool(), out).dataset))
    journal = Journal.read_only(out)
    try:
        stage, job = map(int, record.replies[0].split("/")[:2])
        calls = {call.key: call for call in journal.calls(stage, job)}
        assert set(record.replies) <= set(calls)
        best = calls[record.replies[-1]]
        assert isinstance(best.reply, Completion)
        assert record.completion == assistant(best.reply.text)
        assert all(journal.seed(root) in SEEDS for root in record.roots)
    finally:
        journal.close()
