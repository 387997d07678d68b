"""`kdaug curate` and `mix`: datasets from data that is there."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any

from kdaug.cli.command import add, folder, say
from kdaug.cli.running import executed, file_options, run_options, teachers_of, templates_of, told, with_options
from kdaug.errors import ConfigError

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


def add_mix(commands: Any) -> None:
    sub = add(
        commands,
        "mix",
        _mix,
        "Draw exactly N records from several datasets by weights, each at most once.",
        "kdaug mix runs/alpaca=0.7 owner/name=0.3 --n 10000 --out mixed",
    )
    sub.add_argument("parts", nargs="+", metavar="DATA=WEIGHT", help="a file, run, folder or Hub id, and its weight")
    sub.add_argument("--n", type=int, required=True, metavar="N", help="how many records")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (0)")
    sub.add_argument("--split", default="train", help="of datasets that have several (train)")
    sub.add_argument("--out", type=folder, required=True, metavar="DIR", help="the dataset folder to write")


def _mix(given: argparse.Namespace) -> int:
    from kdaug.mix import mix

    parts: dict[str, float] = {}
    for written in given.parts:
        source, weight = _part(written)
        if source in parts:
            raise ConfigError(f"{source} is given twice: give it once, with both weights together")
        parts[source] = weight
    command = "kdaug " + shlex.join(sys.argv[1:])
    data = mix(parts, given.n, out=given.out, seed=given.seed, split=given.split, command=command)
    drawn = ", ".join(f"{sum(splits.values()):,} {kind}" for kind, splits in data.counts.items())
    say(f"drawn: {drawn} records")
    print(f"dataset: {given.out}")
    return 0


def _part(written: str) -> tuple[str, float]:
    source, sign, weight = written.rpartition("=")
    try:
        if sign and source:
            return source, float(weight)
    except ValueError:
        pass
    raise ConfigError(f"{written}: expected DATA=WEIGHT, such as runs/alpaca=0.7")
