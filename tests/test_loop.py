"""The loop over run, train and evaluate: where each round begins, and going on wherever it was killed.

A student is a folder with a number in it, a training adds one: so that what is tested is the loop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kdaug.cli.looping import table
from kdaug.errors import ConfigError
from kdaug.generators.llm2llm import LLM2LLM
from kdaug.generators.rest_em import RestEM
from kdaug.loop import Round, Rounds, checkpoint_id, loop
from kdaug.loop_plan import Measure, Plan
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, assistant, text_of, user
from kdaug.running import execute as real_execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Request
from kdaug.teachers.fake import Fake

SEEDS = [Record(prompt=user(f"What is {n} + 5?"), completion=assistant(f"#### {n + 5}")) for n in range(30)]


class Kill(BaseException):
    """A kill -9 at a place of the test's choosing."""


def model(folder: Path, skill: float) -> str:
    """A folder that `locate` takes for a model."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_text(name)
    (folder / "config.json").write_text(json.dumps({"skill": skill}))
    return str(folder)


def skill(folder: str) -> float:
    return float(json.loads((Path(folder) / "config.json").read_text())["skill"])


@dataclass(frozen=True)
class Practice:
    """A trainer that raises a student's skill by a tenth for each `gain`, and says what it began with."""

    gain: float = 0.2
    steps: int = 0

    @property
    def kind(self) -> str:
        return "completion"

    def fit(self, data: Any, *, student: str | Path, out: str | Path, on_step: Any = None) -> Path:
        records = list(data.records()) if hasattr(data, "records") else list(data)
        told = {"student": checkpoint_id(str(student)), "steps": self.steps, "records": sorted(r.id for r in records)}
        if not (Path(out) / "training.json").is_file():
            model(Path(out), round(skill(str(student)) + self.gain, 3))
            (Path(out) / "training.json").write_text(json.dumps(told))
        assert json.loads((Path(out) / "training.json").read_text()) == told, "another training in this folder"
        return Path(out)


class World:
    """Who plays the student, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def players(self, folder: str) -> Mapping[str, Any]:
        def answer(request: Request) -> str:
            self.asked.append(checkpoint_id(folder))
            n = int(request.messages[-1].content.split()[2])
            wrong = Random(f"{n}/{request.nonce}").random() >= skill(folder)
            return f"I say {request.nonce}. Answer: {n + 5 + wrong}"

        return {"student": Fake(answer, name=f"s-{checkpoint_id(folder)[:8]}", concurrency=4)}


def recipe_of(more: Sequence[Record]) -> Recipe:
    return Recipe(Each([*SEEDS, *more]), [Stage(RestEM(samples=2, form=""))])


@pytest.fixture
def base(tmp_path: Path) -> str:
    return model(tmp_path / "base", 0.3)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    file = tmp_path / "dev.jsonl"
    lines = (json.dumps({"prompt": f"What is {n} + 5?", "completion": str(n + 5)}) for n in range(100, 140))
    file.write_text("\n".join(lines))
    return file


def go(base: str, out: Path, plan: Plan, rounds: int = 3, world: World | None = None, make: Any = recipe_of) -> Rounds:
    world = world or World()
    log = Log(quiet=True)
    return loop(make, plan, student=base, players=world.players, out=out, rounds=rounds, log=log)


def parents(out: Path, rounds: int = 3) -> list[str]:
    """What each round's training says that it began with."""
    files = (out / f"round-{n}" / "student" / "training.json" for n in range(rounds))
    return [json.loads(file.read_text())["student"] for file in files]


def records(out: Path, n: int) -> set[str]:
    return set(json.loads((out / f"round-{n}/student/training.json").read_text())["records"])


def test_from_the_base_every_round_begins_with_the_same_checkpoint(base: str, tmp_path: Path, tasks: Path) -> None:
    world, out = World(), tmp_path / "loop"
    came = go(base, out, Plan(train=Practice(), start="base", evaluate=Measure(tasks=tasks)), world=world)
    assert parents(out) == [checkpoint_id(base)] * 3 and came.ended == "rounds" and came.exit_code == 0
    students = [checkpoint_id(str(out / f"round-{n}/student")) for n in range(3)]
    assert [r.parent for r in came.rounds] == parents(out) and [r.student for r in came.rounds] == students
    assert [r.asked for r in came.rounds] == [
        checkpoint_id(base),
        *students[:2],
    ]  # the newest one is asked all the same
    assert set(world.asked) == {checkpoint_id(base), *students}
    assert came.start is not None and all(r.figure is not None and r.figure > came.start for r in came.rounds)


def test_from_the_last_each_round_begins_with_the_one_before_which_was_also_asked(base: str, tmp_path: Path) -> None:
    out = tmp_path / "loop"
    came = go(base, out, Plan(train=Practice(), start="last"))
    students = [checkpoint_id(str(out / f"round-{n}/student")) for n in range(3)]
    assert parents(out) == [checkpoint_id(base), *students[:2]]
    assert [r.asked for r in came.rounds] == [r.parent for r in came.rounds]  # SPIN: opponent, start and reference
    assert skill(str(out / "round-2/student")) == pytest.approx(0.9) and came.best == out / "round-2/student"
    told = json.loads((out / "loop.json").read_text())
    assert [r["parent"] for r in told["rounds"]] == parents(out) and told["base"] == checkpoint_id(base)


def test_a_first_student_is_trained_on_the_seeds(base: str, tmp_path: Path) -> None:
    """LLM2LLM: failures are those of a student that has seen the seeds, and every training starts from the base."""
    out = tmp_path / "loop"
    came = go(base, out, Plan(train=Practice(), first=Practice(), start="base", with_seeds=True, history=0), 2)
    first = checkpoint_id(str(out / "start/student"))
    assert came.rounds[0].asked == first and parents(out, 2) == [checkpoint_id(base)] * 2
    seeds = {s.id for s in SEEDS}
    assert seeds < records(out, 0) < records(out, 1)  # seeds and all rounds


def test_history_is_how_many_rounds_are_trained_on(base: str, tmp_path: Path) -> None:
    out = tmp_path / "loop"
    go(base, out, Plan(train=Practice(), start="last", history=2))
    own = [{r.id for r in kept(out, n)} for n in range(3)]
    assert [records(out, n) for n in range(3)] == [own[0], own[0] | own[1], own[1] | own[2]]


def kept(out: Path, n: int) -> list[Record]:
    from kdaug.dataset import Dataset

    return list(Dataset(out / f"round-{n}/run"))


def test_steps_grow_and_are_rounded_down(base: str, tmp_path: Path) -> None:
    plan = Plan(train=Practice(), steps=40, growth=1.2)
    assert [plan.trainer(n).steps for n in range(6)] == [40, 48, 57, 69, 82, 99]  # type: ignore[attr-defined] # Practice has it
    go(base, tmp_path / "loop", plan, 2)
    told = [json.loads((tmp_path / f"loop/round-{n}/student/training.json").read_text())["steps"] for n in (0, 1)]
    assert told == [40, 48]


def test_what_was_kept_grows_the_seeds_of_the_next_round(base: str, tmp_path: Path) -> None:
    seen: list[int] = []

    def make(more: Sequence[Record]) -> Recipe:
        seen.append(len(more))
        assert all(record.completion is not None for record in more)
        return recipe_of([replace(r, prompt=user(f"{text_of(r.prompt)} Number {i}")) for i, r in enumerate(more)])

    came = go(base, tmp_path / "loop", Plan(train=Practice(), start="last", grow=True), 3, make=make)
    assert seen == [0, came.rounds[0].records, came.rounds[0].records + came.rounds[1].records]


def test_a_plateau_ends_it(base: str, tmp_path: Path, tasks: Path) -> None:
    plan = Plan(train=Practice(gain=0.0), evaluate=Measure(tasks=tasks), patience=2)
    came = go(base, tmp_path / "loop", plan, 9)
    assert came.ended == "plateau" and len(came.rounds) == 2 and came.exit_code == 0
    assert len(go(base, tmp_path / "loop", replace(plan, patience=0), 3).rounds) == 3  # asked to, it goes on


def test_caps_are_those_of_all_rounds_together(base: str, tmp_path: Path) -> None:
    def make(cap: int) -> Any:
        return lambda more: replace(recipe_of(more), max_calls=cap)

    world, out = World(), tmp_path / "loop"
    came = go(base, out, Plan(train=Practice()), 3, world, make(100))
    assert came.ended == "max_calls" and came.exit_code == 3 and len(came.rounds) == 1 and len(world.asked) == 100
    came = go(base, out, Plan(train=Practice()), 3, world, make(1000))
    assert came.ended == "rounds" and len(came.rounds) == 3 and len(world.asked) == 180


def test_what_is_finished_is_told_whole_whatever_the_cap(base: str, tmp_path: Path) -> None:
    out = tmp_path / "loop"
    whole, world = go(base, out, Plan(train=Practice()), 2), World()
    came = go(base, out, Plan(train=Practice()), 2, world, lambda more: replace(recipe_of(more), max_calls=1))
    assert came == whole and came.exit_code == 0 and not world.asked
    came = go(base, out, Plan(train=Practice()), 3, world, lambda more: replace(recipe_of(more), max_calls=1))
    assert came.ended == "max_calls" and came.rounds == whole.rounds and not world.asked


def test_where_nothing_is_kept_it_ends_and_says_why(tmp_path: Path) -> None:
    came = go(model(tmp_path / "none", 0.0), tmp_path / "loop", Plan(train=Practice()), 2)
    assert came.ended == "nothing_kept" and not came.rounds and came.best is None and came.exit_code == 3
    assert f"dropped 60 (rest_em:wrong 60); kdaug show {tmp_path / 'loop/round-0/run'}" in came.because
    assert came.because in (tmp_path / "loop/log.txt").read_text()


class Teaching(World):
    """A student that is always wrong, and a teacher whose questions follow from the nonce, or do not."""

    def __init__(self, sampling: bool) -> None:
        super().__init__()
        self.sampling = sampling

    def players(self, folder: str) -> Mapping[str, Any]:
        def write(request: Request) -> str:
            n = request.nonce if self.sampling else 7
            return f"Question 1: What is {n} + 5?\nAnswer 1: Five more.\n#### {n + 5}"

        return {"student": Fake(lambda request: "#### 0", name="s"), "teacher": Fake(write, name="t")}


def test_a_teacher_that_samples_answers_every_round_anew(base: str, tmp_path: Path) -> None:
    def make(more: Sequence[Record]) -> Recipe:
        return Recipe(Each(SEEDS[:6]), [Stage(LLM2LLM())])

    out, plan = tmp_path / "loop", Plan(train=Practice(), with_seeds=True, history=0)
    came = go(base, out, plan, 2, Teaching(sampling=True), make)
    assert [(r.records, r.new) for r in came.rounds] == [(6, 6), (6, 6)] and came.ended == "rounds"
    assert len(records(out, 1)) == 6 + 12 and came == go(base, out, plan, 2, Teaching(sampling=True), make)


def test_a_round_that_only_repeats_the_last_ends_the_loop(base: str, tmp_path: Path) -> None:
    def make(more: Sequence[Record]) -> Recipe:
        return Recipe(Each(SEEDS[:6]), [Stage(LLM2LLM())])

    out, plan = tmp_path / "loop", Plan(train=Practice(), with_seeds=True, history=0)
    came = go(base, out, plan, 3, Teaching(sampling=False), make)
    assert came.ended == "nothing_new" and len(came.rounds) == 1 and came.exit_code == 3
    assert "round 1" in came.because and not (out / "round-1/student").exists()
    went_on = go(base, tmp_path / "last", replace(plan, start="last"), 2, Teaching(sampling=False), make)
    assert went_on.ended == "rounds" and went_on.rounds[1].new == 0  # its student is trained on: another one


def test_how_a_student_came_to_be_is_no_part_of_what_it_is(base: str) -> None:
    plain = checkpoint_id(base)
    (Path(base) / "training.json").write_text('{"seconds": 1.5, "out": "here"}')
    assert checkpoint_id(base) == plain
    (Path(base) / "chat_template.jinja").write_text("{{ messages }}")
    assert checkpoint_id(base) != plain


@pytest.mark.parametrize("step", ["run", "run_over", "train", "trained", "measure", "measured"])
@pytest.mark.parametrize("number", [0, 1])
def test_killed_at_any_step_the_same_command_goes_on(
    step: str, number: int, base: str, tmp_path: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(train=Practice(), start="last", history=2, evaluate=Measure(tasks=tasks))
    whole, calls = tmp_path / "whole", World()
    go(base, whole, plan, 2, calls)

    killed, out, world = False, tmp_path / "parts", World()
    after = {"run_over": "run", "trained": "train", "measured": "measure"}

    def at(name: str, done: Any, where: str) -> Any:
        """Runs `done`, and is killed before or after it, once."""
        nonlocal killed
        here = f"round-{number}" in where and not killed
        if here and step == name:
            killed = True
            raise Kill
        result = done()
        if here and after.get(step) == name:
            killed = True
            raise Kill
        return result

    monkeypatch.setattr(
        "kdaug.loop.execute", lambda r, f, p, **m: at("run", lambda: real_execute(r, f, p, **m), str(f))
    )
    fit, table = Practice.fit, __import__("kdaug.loop", fromlist=["_table"])._table
    monkeypatch.setattr(
        Practice,
        "fit",
        lambda self, d, *, student, out, on_step=None: at(
            "train", lambda: fit(self, d, student=student, out=out), str(out)
        ),
    )
    monkeypatch.setattr(
        "kdaug.loop._table", lambda m, mo, c, p, f, log: at("measure", lambda: table(m, mo, c, p, f, log), str(f))
    )
    with pytest.raises(Kill):
        go(base, out, plan, 2, world)
    assert killed and json.loads((out / "loop.json").read_text())["ended"] == "running"
    came = go(base, out, plan, 2, world)
    assert came.ended == "rounds" and len(world.asked) == len(calls.asked)  # nothing was asked twice
    assert told(out) == told(whole)


def told(out: Path) -> dict[str, Any]:
    """All that a loop leaves behind that its figures follow from."""
    found: dict[str, Any] = {"loop": json.loads((out / "loop.json").read_text())}
    for n in (0, 1):
        found[f"data {n}"] = [r.to_json() for r in kept(out, n)]
        for name in ("student/training.json", "evaluation.json"):
            found[f"{name} {n}"] = json.loads((out / f"round-{n}" / name).read_text())
    return found


def test_a_run_that_is_killed_amid_its_calls_goes_on(base: str, tmp_path: Path) -> None:
    class Dying(World):
        def players(self, folder: str) -> Mapping[str, Any]:
            played = super().players(folder)["student"]
            script = played.reply

            def answer(request: Request) -> Any:
                if len(self.asked) == 70:
                    raise Kill
                return script(request)

            return {"student": Fake(answer, name=played.name, concurrency=4)}

    out = tmp_path / "loop"
    with pytest.raises(BaseException):  # noqa: B017 - an exception group of the engine's
        go(base, out, Plan(train=Practice()), 3, Dying())
    came = go(base, out, Plan(train=Practice()), 3)
    assert came.ended == "rounds"
    assert [r.records for r in came.rounds] == [
        r.records for r in go(base, tmp_path / "o", Plan(train=Practice())).rounds
    ]


def test_a_folder_belongs_to_one_loop(base: str, tmp_path: Path, tasks: Path) -> None:
    out, plan = tmp_path / "loop", Plan(train=Practice())
    go(base, out, plan, 1)
    go(base, out, plan, 2)  # more rounds are no other loop
    for other in (replace(plan, start="last"), replace(plan, train=Practice(gain=0.5)), replace(plan, steps=9)):
        with pytest.raises(ConfigError, match="holds another loop"):
            go(base, out, other, 2)
    with pytest.raises(ConfigError, match=r"base \(--student\): .*base -> .*other"):
        go(model(tmp_path / "other", 0.5), out, plan, 2)
    with pytest.raises(ConfigError, match=r"stages.0.generator.samples: 2 -> 3"):
        go(base, out, plan, 2, make=lambda more: Recipe(Each(SEEDS), [Stage(RestEM(samples=3, form=""))]))
    with pytest.raises(ConfigError, match=r"source.seeds: 30 records \w+ -> 29 records \w+ \(mine.jsonl\)"):
        fewer = Recipe(Each(SEEDS[1:]), [Stage(RestEM(samples=2, form=""))], seeds_from="mine.jsonl")
        go(base, out, plan, 2, make=lambda more: fewer)
    with pytest.raises(ConfigError, match=r"\(holdout: 0.0 -> 0.2\)"):
        go(base, out, plan, 2, make=lambda more: replace(recipe_of(more), holdout=0.2))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no loop's folder"):
        go(base, tmp_path / "full", plan)


def test_a_student_is_not_measured_by_what_it_learns_from(base: str, tmp_path: Path) -> None:
    file = tmp_path / "dev.jsonl"
    file.write_text(json.dumps({"prompt": "What is 3 + 5?", "completion": "8"}))
    with pytest.raises(ConfigError, match="1 of its prompts are among the seeds"):
        go(base, tmp_path / "loop", Plan(train=Practice(), evaluate=Measure(tasks=file)))


@pytest.mark.parametrize("fields", [{"start": "best"}, {"steps": -1}, {"growth": 0}, {"history": -1}])
def test_plans_that_cannot_work_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Plan(train=Practice(), **fields)


def test_the_table_says_what_is_new_and_why_it_ended(tmp_path: Path) -> None:
    rounds = (Round(0, "a", "b", "c", 12, None, 12), Round(1, "a", "b", "c", 9, None, 0))
    came = Rounds(tmp_path, None, rounds, "nothing_kept", "dropped 12 (rest_em:cut 12); kdaug show x")
    lines = table(came)
    assert lines[1].endswith(" 12 kept") and lines[2].endswith(" 9 kept (0 new)")
    assert "ended by nothing_kept: dropped 12 (rest_em:cut 12); kdaug show x" in lines


def test_a_loop_of_an_earlier_version_goes_on(base: str, tmp_path: Path) -> None:
    out, plan = tmp_path / "loop", Plan(train=Practice())
    go(base, out, plan, 1)
    told = json.loads((out / "loop.json").read_text())
    (out / "loop.json").write_text(json.dumps({k: v for k, v in told.items() if k not in ("described", "dataset")}))
    assert go(base, out, plan, 2).ended == "rounds"
    (out / "loop.json").write_text(json.dumps({k: v for k, v in told.items() if k not in ("described", "dataset")}))
    with pytest.raises(ConfigError, match="another loop \\(recipe: "):
        go(base, out, plan, 2, make=lambda more: Recipe(Each(SEEDS[1:]), [Stage(RestEM(samples=2, form=""))]))
