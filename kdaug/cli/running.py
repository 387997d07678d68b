"""`kdaug run`, `estimate` and `check`: what takes a recipe."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaug.cli.command import add, folder, say
from kdaug.errors import ConfigError
from kdaug.teacher import ROLES

if TYPE_CHECKING:
    from kdaug.recipe import Recipe
    from kdaug.recipe_file import RecipeFile
    from kdaug.record import Record
    from kdaug.running import Outcome
    from kdaug.seeds import Seeds
    from kdaug.teacher import Teacher


def recipe_options(sub: argparse.ArgumentParser, student: str = "") -> None:
    """Recipe, seeds and fields; `student`: what its option means here, where it is no teacher's spec."""
    sub.add_argument("recipe", help="a built-in name (self-instruct, evol-instruct, feedback, …) or a YAML file")
    sub.add_argument("--seeds", metavar="PATH", help="JSONL, JSON, CSV, Parquet, YAML, a run, or a Hub dataset")
    sub.add_argument(
        "--holdout", type=float, metavar="SHARE", help="share of the seeds for the test split, such as 0.1"
    )
    sub.add_argument(
        "--logprobs", type=int, metavar="K", help="keep the teacher's K likeliest tokens of its answers, to distil from"
    )
    file_options(sub, student)


def file_options(sub: argparse.ArgumentParser, student: str = "") -> None:
    """What goes before the fields of a recipe's file."""
    sub.add_argument("--target", type=int, metavar="N", help="records that the last stage is to keep")
    sub.add_argument(
        "--templates", type=Path, metavar="DIR", help="your own templates; they go before the shipped ones"
    )
    sub.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field: rouge.threshold=0.8")
    sub.add_argument("--price", action="append", default=[], metavar="MODEL=IN,OUT", help="USD per million tokens")
    sub.add_argument(
        "--judge-check",
        dest="judge_checks",
        action="append",
        metavar="PATH",
        help="what kdaug judge-check wrote of a judge: the card says whether it passed",
    )
    for role in ROLES:
        says = student if role == "student" and student else f"the {role}, such as openai:gpt-x?concurrency=64"
        sub.add_argument(f"--{role}", metavar="MODEL" if says is student else "KIND:MODEL", help=says)


def _seconds(text: str) -> float:
    number, unit = text.rstrip("smh"), text[len(text.rstrip("smh")) :]
    try:
        return float(number) * {"": 1, "s": 1, "m": 60, "h": 3600}[unit]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90s, 30m or 2h") from None


def add_run(commands: Any) -> None:
    sub = add(
        commands,
        "run",
        _run,
        "Run a recipe, or go on with the run in --out.",
        "kdaug run self-instruct --seeds seeds.jsonl --target 1000 --teacher 'vllm:Qwen/Qwen3-32B' --out runs/alpaca",
    )
    recipe_options(sub)
    sub.add_argument("--out", type=folder, required=True, metavar="DIR", help="the run folder")
    sub.add_argument("--max-jobs", type=int, metavar="N", help="draws from the source at most")
    sub.add_argument("--preview", type=int, metavar="N", help="only the first N jobs, shown whole; the run keeps them")
    run_options(sub)


def run_options(sub: argparse.ArgumentParser) -> None:
    """What a run may spend, and how it goes on."""
    sub.add_argument("--max-cost", type=float, metavar="USD", help="spend at most this, resumed parts together")
    sub.add_argument("--max-tokens", type=int, metavar="N", help="prompt and completion tokens at most")
    sub.add_argument("--max-calls", type=int, metavar="N", help="requests at most, repeated ones too")
    sub.add_argument("--max-time", type=_seconds, metavar="2h", help="no new call after 90s, 30m, 2h")
    sub.add_argument("--redo-failed", action="store_true", help="try what failed at a teacher again, at the end")
    sub.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _run(given: argparse.Namespace) -> int:
    outcome = executed(given, *_recipe(given))
    if given.preview:
        from kdaug.show import Story

        story = Story(given.out)
        for found in story.newest(given.preview):
            print("\n".join(story.tell(found.record.id)))
        print("\n".join(story.funnel()))
        return 0 if outcome.error is None and outcome.facts["kept"] else outcome.exit_code
    return told(given, outcome)


def executed(given: argparse.Namespace, recipe: Recipe, teachers: dict[str, Teacher]) -> Outcome:
    """The run that a command asks for."""
    from kdaug.progress import Log
    from kdaug.running import execute

    command, log = "kdaug " + shlex.join(sys.argv[1:]), Log(quiet=given.quiet)
    outcome = execute(recipe, given.out, teachers, log=log, command=command, redo_failed=given.redo_failed)
    if outcome.error is not None:
        say(f"kdaug: {outcome.error}")
    return outcome


def told(given: argparse.Namespace, outcome: Outcome) -> int:
    """Prints where the dataset is; returns the exit code."""
    if not given.quiet and not isinstance(outcome.error, ConfigError):
        folder = given.out / "dataset"
        print(f"dataset: {folder}" if outcome.facts["kept"] else f"no record was kept: see kdaug show {given.out}")
    return outcome.exit_code


def _recipe(given: argparse.Namespace, *, teacher: str = "local") -> tuple[Recipe, dict[str, Teacher]]:
    """The recipe and its teachers, from the file, `--set` and the options: the later goes before the earlier.
    `teacher`: where none is named, the embedded model."""
    from kdaug.recipe_file import load

    file = with_options(given, load(given.recipe))
    recipe = recipe_over(given, file, *seeds_of(given, file))
    return recipe, teachers_of(given, file, recipe, teacher)


def seeds_of(given: argparse.Namespace, file: RecipeFile) -> tuple[Seeds, str]:
    """The seeds that the option or the file names, and the name of where they are from."""
    from kdaug import recipes
    from kdaug.read import read

    found = recipes.seeds_of(file, given.seeds)
    return read(found), Path(found).name


def recipe_over(given: argparse.Namespace, file: RecipeFile, seeds: Sequence[Record], seeds_from: str) -> Recipe:
    from kdaug import recipes

    return recipes.build(file, seeds, seeds_from=seeds_from, templates=templates_of(given, file))


def with_options(given: argparse.Namespace, file: RecipeFile) -> RecipeFile:
    """A recipe's file with the options' values in the place of its own."""
    from kdaug.prices import parse_price
    from kdaug.recipes import keep_logprobs

    for name in ("target", "holdout", "max_cost", "max_tokens", "max_calls", "max_time", "judge_checks"):
        if (value := getattr(given, name, None)) is not None:
            file.put(name, value)
    for model, price in map(parse_price, given.price):
        file.values.setdefault("prices", {})[model] = {"input": price.input, "output": price.output}
    if (preview := getattr(given, "preview", None)) is not None and preview < 1:
        raise ConfigError(f"--preview is {preview}: it must be at least 1")
    jobs = [n for name in ("preview", "max_jobs") if (n := getattr(given, name, None)) is not None]
    if jobs:
        file.put("max_jobs", min(jobs))
    for assignment in given.set:
        file.set(assignment)
    if (top_k := getattr(given, "logprobs", None)) is not None:
        keep_logprobs(file, top_k)
    return file


def templates_of(given: argparse.Namespace, file: RecipeFile) -> Path | None:
    """The user's folder of templates: the option's, else the recipe's own, which is taken from beside it."""
    if given.templates is not None:
        if not given.templates.is_dir():
            raise ConfigError(f"--templates {given.templates}: no such folder")
        return Path(given.templates)
    written = file.values.get("templates")
    if written is None:
        return None
    if not isinstance(written, str) or not (folder := (file.folder or Path()) / written).is_dir():
        raise file.error(f"no folder {written!r} beside the recipe", "templates")
    return folder


def teachers_of(given: argparse.Namespace, file: RecipeFile, recipe: Recipe, default: str) -> dict[str, Teacher]:
    """One teacher a role; equal specs share one, so that a model is loaded once. `default`: where none is named, and
    anything may ask one."""
    from kdaug import recipes
    from kdaug.prices import check_named, parse_price
    from kdaug.recipe import roles_of
    from kdaug.recipe_file import unknown
    from kdaug.rows import Rows

    roles, asked = file.values.get("roles") or {}, roles_of(recipe)
    if not isinstance(roles, dict):
        raise file.error("expected a mapping from role to teacher", "roles")
    specs: dict[str, str] = {}
    for role, spec in roles.items():
        if role not in ROLES and role not in asked:
            raise file.error(unknown("role", str(role), sorted({*ROLES, *asked})), "roles", str(role))
        if not isinstance(spec, str):
            raise file.error(f"expected a teacher such as openai:MODEL, found {spec!r}", "roles", str(role))
        specs[role] = spec
    specs |= {role: spec for role in ROLES if (spec := getattr(given, role, None)) is not None}
    if asked or not isinstance(recipe.source, Rows):
        specs.setdefault("teacher", default)
    made = {spec: recipes.teacher(spec) for spec in dict.fromkeys(specs.values())}
    check_named([parse_price(text)[0] for text in given.price], made.values())
    return {role: made[spec] for role, spec in specs.items()}


def add_estimate(commands: Any) -> None:
    sub = add(
        commands,
        "estimate",
        _estimate,
        "Run a recipe's first jobs, and say what calls, tokens, money and time all of it will take.",
        "kdaug estimate self-instruct --seeds seeds.jsonl --target 1000 --teacher openai:gpt-4.1-mini --out runs/x",
    )
    recipe_options(sub)
    sub.add_argument("--out", type=folder, required=True, metavar="DIR", help="the run's folder: it keeps the sample")
    sub.add_argument("--sample", type=int, default=8, metavar="N", help="how many jobs to run (8)")


def _estimate(given: argparse.Namespace) -> int:
    from kdaug.estimate import estimate
    from kdaug.progress import Log

    if given.sample < 1:
        raise ConfigError(f"--sample is {given.sample}: it must be at least 1")
    recipe, teachers = _recipe(given)
    command = "kdaug " + shlex.join(sys.argv[1:])
    for line in estimate(recipe, given.out, teachers, jobs=given.sample, command=command, log=Log(quiet=True)):
        print(line)
    return 0


def add_check(commands: Any) -> None:
    sub = add(
        commands,
        "check",
        _check,
        "Validate a recipe and run two jobs of it on a scripted teacher: nothing is paid.",
        "kdaug check recipe.yaml --seeds seeds.jsonl",
    )
    recipe_options(sub)


def _check(given: argparse.Namespace) -> int:
    from kdaug.check import check

    recipe, _ = _recipe(given, teacher="fake")  # the teachers that are named are made, and not opened
    for line in check(recipe):
        print(line)
    return 0
