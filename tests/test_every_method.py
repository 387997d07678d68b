"""Every built-in method, from its scaffold, on made-up words: nothing is lost, breaks leave no trace, and each record
has its story."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kdaug import recipes
from kdaug.cli import parser
from kdaug.dataset import Dataset
from kdaug.errors import ParseError, TeacherError, TeacherUnavailable
from kdaug.generator import Generate, Generator
from kdaug.methods import Method, methods
from kdaug.progress import Log
from kdaug.read import read
from kdaug.recipe import Recipe, roles_of
from kdaug.recipe_file import load
from kdaug.record import Discarded, Record
from kdaug.running import Outcome, execute
from kdaug.scaffold import scaffold_method
from kdaug.show import Story
from kdaug.teacher import Request
from kdaug.teachers.fake import Answer, Fake, WhiteBoxFake

JOBS = 2
PARSER = parser(training=False)


class Breaking(WhiteBoxFake):
    """A scripted teacher that is gone from its n-th call on."""

    def __init__(self, until: int = 10**9) -> None:
        super().__init__(concurrency=2)
        self.until, self.numbers = until, count()

    def _answer(self, request: Request) -> Answer:
        return TeacherUnavailable("power cut") if next(self.numbers) >= self.until else super()._answer(request)


class Counted:
    """A generator, and what came of it: how much it returned, jobs that ended with nothing but their reason counted in,
    and which of it says that it was made from something that is in no journal."""

    def __init__(self, inner: Generator) -> None:
        self._inner, self._made, self._orphans = inner, 0, list[str]()

    def __getattr__(self, name: str) -> Any:  # Any: whatever the generator has
        return getattr(self._inner, name)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        try:
            made = await self._inner(parents, generate, rng)
        except (TeacherError, ParseError):
            self._made += 1
            raise
        self._made += len(made)
        records = [child.record if isinstance(child, Discarded) else child for child in made]
        known = {record.id for record in (*parents, *records)}
        for record in records:
            if record.id not in {parent.id for parent in parents} and not known.issuperset(record.parents):
                self._orphans.append(record.by)
        return made


def scaffold(method: Method, folder: Path) -> Recipe:
    """What `kdaug init --method` writes, as the command that it tells runs it, for two jobs."""
    lines = list(scaffold_method(method, folder))
    [command] = [line.partition("kdaug ")[2] for line in lines if "without a model" in line]
    told = PARSER.parse_args(shlex.split(command))
    file = load(told.recipe)
    templates = folder / "templates"
    seeds = read(folder / file.values["seeds"])
    recipe = recipes.build(file, seeds, templates=templates if templates.is_dir() else None)
    given = {role for role in ("teacher", "student", "judge") if getattr(told, role)}
    given |= {assignment.removeprefix("roles.").partition("=")[0] for assignment in told.set}
    assert given == roles_of(recipe)
    stages = [replace(stage, generator=with_few_samples(stage.generator)) for stage in recipe.stages]
    return replace(recipe, stages=stages, max_jobs=JOBS, target=None, select=None)


def with_few_samples(generator: Any) -> Any:  # Any: whatever fields it has
    """32 samples of one prompt show no more than 4."""
    return replace(generator, samples=4) if getattr(generator, "samples", 0) > 4 else generator


def go(recipe: Recipe, out: Path, teacher: Fake) -> Outcome:
    return execute(recipe, out, dict.fromkeys(("teacher", *roles_of(recipe)), teacher), log=Log(quiet=True))


def data(out: Path) -> dict[str, bytes]:
    found = [*(out / "dataset" / "data").rglob("*.parquet"), *out.glob("dropped.parquet")]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_a_method_keeps_what_it_promises(method: Method, tmp_path: Path) -> None:
    recipe = scaffold(method, tmp_path / "mine")
    counted = replace(recipe, stages=[replace(stage, generator=Counted(stage.generator)) for stage in recipe.stages])
    teacher = Breaking()
    whole = go(counted, tmp_path / "whole", teacher)
    assert whole.error is None
    calls = len(teacher.calls)
    assert calls > 0

    # Nothing is lost: what came of a stage's jobs is kept, or dropped with a reason.
    coming = JOBS
    for stage, facts in zip(counted.stages, whole.facts["stages"], strict=True):
        assert facts["jobs"] <= coming
        assert vars(stage.generator)["_made"] == facts["kept"] + sum(facts["dropped"].values())
        assert vars(stage.generator)["_orphans"] == []
        assert all(reason.partition(":")[2] for reason in facts["dropped"])
        coming = facts["kept"]
    assert coming == whole.facts["kept"] > 0

    # Every record has its story.
    seeds = {root for seed in recipe.source.seeds for root in (seed.roots or (seed.id,))}
    story = Story(tmp_path / "whole")
    for record in Dataset(tmp_path / "whole"):
        assert record.by and record.parents and record.teachers == ("fake",) and record.replies
        assert set(record.roots) <= seeds
        assert len(list(story.tell(record.id))) > len(record.replies)

    # A break leaves no trace.
    gone = go(counted, tmp_path / "broken", Breaking(calls // 2))
    assert isinstance(gone.error, TeacherUnavailable)
    again = go(counted, tmp_path / "broken", Breaking())
    assert again.error is None and again.facts["stages"] == whole.facts["stages"]
    assert data(tmp_path / "broken") == data(tmp_path / "whole")
