"""`kdaug curate` and `mix`: datasets from data that is there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kdaug.cli.command import add, folder
from kdaug.cli.running import executed, file_options, run_options, teachers_of, templates_of, told, with_options

if TYPE_CHECKING:
    from kdaug.recipe import Recipe
    from kdaug.teacher import Teacher


def add_curate(commands: Any) -> None:
    sub = add(
        commands,
        "curate",
        _curate,
        "Send data through gates into a dataset: several inputs are merged, and exact copies dropped.",
        "kdaug curate shard1.jsonl shard2.parquet owner/name --recipe gates.yaml --out runs/curated",
    )
    sub.add_argument("data", nargs="+", metavar="DATA", help="JSONL, JSON, CSV, Parquet, YAML, a run, or a Hub dataset")
    sub.add_argument("--recipe", metavar="FILE", help="YAML with `gates` or `stages` (none: only copies are dropped)")
    sub.add_argument("--split", default="train", help="of inputs that have several (train)")
    sub.add_argument("--out", type=folder, required=True, metavar="DIR", help="the run folder")
    file_options(sub)
    run_options(sub)


def _curate(given: argparse.Namespace) -> int:
    return told(given, executed(given, *_recipe(given)))


def _recipe(given: argparse.Namespace) -> tuple[Recipe, dict[str, Teacher]]:
    from kdaug import recipes
    from kdaug.recipe_file import RecipeFile, load
    from kdaug.rows import Rows

    file = with_options(given, load(given.recipe) if given.recipe else RecipeFile("curate", {"gates": []}))
    rows = Rows(given.data, given.split)
    recipe = recipes.build(file, rows, seeds_from=", ".join(rows.names), templates=templates_of(given, file))
    return recipe, teachers_of(given, file, recipe, "local")
