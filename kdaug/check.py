"""Tries a recipe without a model: two jobs of it on a scripted teacher, before a cent is spent."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kdaug.progress import Log, reasons
from kdaug.recipe import Recipe, parts, roles_of
from kdaug.running import execute
from kdaug.stage import Stage
from kdaug.teachers.fake import WhiteBoxFake

JOBS = 2


def check(recipe: Recipe) -> Iterator[str]:
    """Lines on what the recipe is and what its two jobs came to.

    Its parts, roles and templates are the real ones; only the words are made up, so drops are no fault of the recipe.
    Raises ConfigError for what could never run.
    """
    for number, stage in enumerate(recipe.stages):
        roles = sorted({role for part in parts(stage) for role in part.roles})
        gates = f" [{', '.join(g.name for g in stage.gates)}]" if stage.gates else ""
        yield f"stage {number}: {stage.generator.name}{gates}, asks {', '.join(roles) or 'nobody'}"
    yield f"seeds: {len(recipe.source.seeds)}" + (f" from {recipe.seeds_from}" if recipe.seeds_from else "")
    teacher = WhiteBoxFake(concurrency=2)
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(
            recipe, max_jobs=JOBS, target=None, select=None, stages=[_small(stage) for stage in recipe.stages]
        )
        teachers = dict.fromkeys(("teacher", *sorted(roles_of(recipe))), teacher)
        outcome = execute(trial, Path(folder) / "run", teachers, log=Log(quiet=True))
        if outcome.error is not None:
            raise outcome.error
        for stage_facts in outcome.facts["stages"]:
            dropped = reasons(Counter(stage_facts["dropped"]))
            yield f"{stage_facts['name']}: {stage_facts['jobs']} jobs, kept {stage_facts['kept']}, dropped {dropped}"
    yield f"ok: {len(teacher.calls)} calls on a scripted teacher, none on a real one"


def _small(stage: Stage) -> Stage:
    return replace(stage, window=JOBS)
