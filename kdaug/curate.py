"""Curating: a data set through gates, as a run with the same journal, folder, drops and card as any other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from kdaug.dataset import Dataset
from kdaug.gate import Gate
from kdaug.gates.copies import Copies
from kdaug.generators.pass_through import Pass
from kdaug.recipe import Recipe
from kdaug.rows import Rows
from kdaug.running import run
from kdaug.stage import WINDOW_PER_SLOT, Stage
from kdaug.teacher import Teacher


def curate(
    data: str | Path | Sequence[str | Path],
    gates: Sequence[Gate] = (),
    *,
    out: str | os.PathLike[str],
    split: str = "train",
    target: int | None = None,
    teacher: Teacher | None = None,
    judge: Teacher | None = None,
    quiet: bool = False,
) -> Dataset:
    """Sends files, folders and Hub datasets, merged in their order, through gates into `out`; returns what is kept.

    Exact copies are dropped without a gate being named, and so is a row that is no record. A gate that asks a model has
    a stage of its own, so that nothing is paid for what the gates before it drop. `target`: the first so many. Killed
    and run again, it goes on; for stages, seeds and caps besides, run a `Recipe` over `Rows`. Raises as `run` does.
    """
    recipe = curation(Rows(data, split), stages_of(gates), target=target)
    return run(recipe, out, teacher=teacher, judge=judge, quiet=quiet)


def curation(rows: Rows, stages: Sequence[Stage], *, target: int | None = None) -> Recipe:
    """The recipe that sends rows through stages; before all of them, copies are dropped."""
    names = ", ".join(rows.names)
    return Recipe(rows, curating(stages), target=target, name="curate", seeds_from=names)


def curating(stages: Sequence[Stage]) -> list[Stage]:
    """Stages as rows need them: a first one of `Pass` that asks nobody, drops copies, and whose jobs are pages."""
    first, others = Stage(Pass()), list(stages)
    if others and not any(gate.roles for gate in others[0].gates) and isinstance(others[0].generator, Pass):
        first, *others = others
    # A job is a page: eight of them at work are two thousand records.
    return [Stage(Pass(), [Copies(), *first.gates], first.window or WINDOW_PER_SLOT), *others]


def stages_of(gates: Sequence[Gate]) -> list[Stage]:
    """Gates as stages of `Pass`, in their order: one for neighbours that ask nobody, one for each that asks a model."""
    groups = groupby(enumerate(gates), key=lambda at: at[0] if at[1].roles else -1)
    return [Stage(Pass(), [gate for _, gate in group]) for _, group in groups] or [Stage(Pass())]
