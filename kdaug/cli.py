"""The command line. Every command is a thin layer over the Python API; errors are one line with the way out."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaug import __version__
from kdaug.errors import ConfigError, KdaugError

if TYPE_CHECKING:
    from kdaug.recipe import Recipe
    from kdaug.teacher import Teacher

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 finished, 1 failed, 2 the user's mistake, 3 stopped early and clean, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    given = parser(training="train" in words).parse_args(words)
    command: Command = given.command
    try:
        return command(given)
    except KdaugError as e:
        _say(f"kdaug: {e}")
        return e.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) is gone: that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser(*, training: bool = True) -> argparse.ArgumentParser:
    """`training`: with the options of the trainers, which take 0.1 s to look up."""
    top = argparse.ArgumentParser(
        "kdaug",
        description="From seed tasks and a teacher model to a dataset and a small student model.",
        epilog="Start here: kdaug init first && kdaug run first/recipe.yaml --seeds first/seeds.jsonl --out runs/first",
    )
    top.add_argument("--version", action="version", version=f"kdaug {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_init(commands)
    _add_run(commands)
    _add_check(commands)
    _add_estimate(commands)
    _add_show(commands)
    _add_batches(commands)
    _add_export(commands)
    _add_push(commands)
    _add_train(commands, training)
    _add_prune(commands)
    _add_eval(commands)
    _add_doctor(commands)
    return top


def _add(commands: Any, name: str, command: Command, summary: str, example: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(command=command)
    return made


# -- init ----------------------------------------------------------------------------------------------------------


def _add_init(commands: Any) -> None:
    sub = _add(
        commands,
        "init",
        _init,
        "Write a recipe, seeds and templates of your own to start from.",
        "kdaug init mine --recipe evol-instruct",
    )
    sub.add_argument("folder", type=Path, help="a folder that does not exist yet, or is empty")
    sub.add_argument("--recipe", default="self-instruct", help="the built-in recipe to start from (self-instruct)")


def _init(given: argparse.Namespace) -> int:
    import shutil

    from kdaug import prompts, recipes

    folder: Path = given.folder
    if given.recipe not in recipes.builtin_names():
        raise ConfigError(f"no built-in recipe {given.recipe!r}: choose one of {', '.join(recipes.builtin_names())}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty: choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(prompts.shipped() / "recipes" / f"{given.recipe}.yaml", folder / "recipe.yaml")
        shutil.copy(prompts.shipped() / "seeds" / "seeds.jsonl", folder / "seeds.jsonl")
        shutil.copytree(prompts.shipped() / "prompts", folder / "templates" / "prompts")
    except OSError as e:
        raise ConfigError(f"cannot write to {folder}: {e.strerror}") from e
    print(f"{folder}/recipe.yaml      the recipe ({given.recipe})")
    print(f"{folder}/seeds.jsonl      seed tasks: put yours in their place, one JSON object a line")
    print(f"{folder}/templates/       the prompts: change what you like, delete the rest")
    at = shlex.quote(str(folder))
    print(f"try it without a model:   kdaug check {at}/recipe.yaml --seeds {at}/seeds.jsonl --templates {at}/templates")
    return 0


# -- run, check, show ----------------------------------------------------------------------------------------------


def _recipe_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipe", help="a built-in name (self-instruct, evol-instruct, feedback, …) or a YAML file")
    sub.add_argument("--seeds", metavar="PATH", help="JSONL, JSON, CSV, Parquet, YAML, a run, or a Hub dataset")
    sub.add_argument("--target", type=int, metavar="N", help="records that the last stage is to keep")
    sub.add_argument(
        "--holdout", type=float, metavar="SHARE", help="share of the seeds for the test split, such as 0.1"
    )
    sub.add_argument(
        "--templates", type=Path, metavar="DIR", help="your own templates; they go before the shipped ones"
    )
    sub.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field: rouge.threshold=0.8")
    sub.add_argument("--price", action="append", default=[], metavar="MODEL=IN,OUT", help="USD per million tokens")
    for role in ("teacher", "student", "judge"):
        sub.add_argument(f"--{role}", metavar="KIND:MODEL", help=f"the {role}, such as openai:gpt-x?concurrency=64")


def _seconds(text: str) -> float:
    number, unit = text.rstrip("smh"), text[len(text.rstrip("smh")) :]
    try:
        return float(number) * {"": 1, "s": 1, "m": 60, "h": 3600}[unit]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90s, 30m or 2h") from None


def _add_run(commands: Any) -> None:
    sub = _add(
        commands,
        "run",
        _run,
        "Run a recipe, or go on with the run in --out.",
        "kdaug run self-instruct --seeds seeds.jsonl --target 1000 --teacher 'vllm:Qwen/Qwen3-32B' --out runs/alpaca",
    )
    _recipe_options(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run folder")
    sub.add_argument("--max-jobs", type=int, metavar="N", help="draws from the source at most")
    sub.add_argument("--max-cost", type=float, metavar="USD", help="spend at most this, resumed parts together")
    sub.add_argument("--max-tokens", type=int, metavar="N", help="prompt and completion tokens at most")
    sub.add_argument("--max-calls", type=int, metavar="N", help="requests at most, repeated ones too")
    sub.add_argument("--max-time", type=_seconds, metavar="2h", help="no new call after 90s, 30m, 2h")
    sub.add_argument("--preview", type=int, metavar="N", help="only the first N jobs, shown whole; the run keeps them")
    sub.add_argument("--redo-failed", action="store_true", help="try what failed at a teacher again, at the end")
    sub.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _run(given: argparse.Namespace) -> int:
    from kdaug.progress import Log
    from kdaug.running import execute
    from kdaug.show import Story

    recipe, teachers = _recipe(given)
    command = "kdaug " + shlex.join(sys.argv[1:])
    log = Log(quiet=given.quiet)
    outcome = execute(recipe, given.out, teachers, log=log, command=command, redo_failed=given.redo_failed)
    if outcome.error is not None:
        _say(f"kdaug: {outcome.error}")
    if given.preview:
        story = Story(given.out)
        for found in story.newest(given.preview):
            print("\n".join(story.tell(found.record.id)))
        print("\n".join(story.funnel()))
        return 0 if outcome.error is None else outcome.exit_code
    if not given.quiet:
        print(f"dataset: {given.out / 'dataset'}")
    return outcome.exit_code


def _recipe(given: argparse.Namespace) -> tuple[Recipe, dict[str, Teacher]]:
    """The recipe and its teachers, from the file, `--set` and the options: the later goes before the earlier."""
    from kdaug import prompts, recipes
    from kdaug.prices import parse_price
    from kdaug.read import read

    file = recipes.load(given.recipe)
    for name in ("target", "holdout", "max_cost", "max_tokens", "max_calls", "max_time"):
        if (value := getattr(given, name, None)) is not None:
            file.values[name] = value
    for model, price in map(parse_price, given.price):
        file.values.setdefault("prices", {})[model] = {"input": price.input, "output": price.output}
    max_jobs = getattr(given, "preview", None) or getattr(given, "max_jobs", None)
    if max_jobs is not None:
        file.values["max_jobs"] = max_jobs
    for assignment in given.set:
        file.set(assignment)
    written = given.seeds or file.values.get("seeds")
    if written is None:
        raise ConfigError(f"{file.where}: no seeds: give them with --seeds PATH (JSONL, one task a line)")
    shipped = prompts.shipped() / "seeds" / str(written)
    beside = Path(file.where).parent / str(written)
    seeds_from = next((str(p) for p in (Path(written), beside, shipped) if p.exists()), str(written))
    seeds = read(seeds_from)
    recipe = recipes.build(file, seeds, seeds_from=Path(seeds_from).name, templates=given.templates)
    return recipe, _teachers(given, file)


def _teachers(given: argparse.Namespace, file: Any) -> dict[str, Teacher]:
    """One teacher a role; equal specs share one, so that a model is loaded once. None named: the embedded model."""
    from kdaug import recipes

    roles = file.values.get("roles") or {}
    if not isinstance(roles, dict):
        raise file.error("expected a mapping from role to teacher", "roles")
    specs: dict[str, str] = {str(role): str(spec) for role, spec in roles.items()}
    specs |= {role: spec for role in ("teacher", "student", "judge") if (spec := getattr(given, role, None))}
    specs.setdefault("teacher", "local")
    made = {spec: recipes.teacher(spec) for spec in dict.fromkeys(specs.values())}
    return {role: made[spec] for role, spec in specs.items()}


def _add_estimate(commands: Any) -> None:
    sub = _add(
        commands,
        "estimate",
        _estimate,
        "Run a recipe's first jobs, and say what calls, tokens, money and time all of it will take.",
        "kdaug estimate self-instruct --seeds seeds.jsonl --target 1000 --teacher openai:gpt-4.1-mini --out runs/x",
    )
    _recipe_options(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder: it keeps the sample")
    sub.add_argument("--sample", type=int, default=8, metavar="N", help="how many jobs to run (8)")


def _estimate(given: argparse.Namespace) -> int:
    from kdaug.estimate import estimate
    from kdaug.progress import Log

    recipe, teachers = _recipe(given)
    command = "kdaug " + shlex.join(sys.argv[1:])
    for line in estimate(recipe, given.out, teachers, jobs=given.sample, command=command, log=Log(quiet=True)):
        print(line)
    return 0


def _add_check(commands: Any) -> None:
    sub = _add(
        commands,
        "check",
        _check,
        "Validate a recipe and run two jobs of it on a scripted teacher: nothing is paid.",
        "kdaug check recipe.yaml --seeds seeds.jsonl",
    )
    _recipe_options(sub)


def _check(given: argparse.Namespace) -> int:
    from kdaug.check import check

    for role in ("teacher", "student", "judge"):
        if (spec := getattr(given, role)) is not None:
            from kdaug import recipes

            recipes.teacher(spec)
    named = argparse.Namespace(**{**vars(given), "teacher": "fake", "student": "fake", "judge": "fake"})
    recipe, _ = _recipe(named)
    for line in check(recipe):
        print(line)
    return 0


def _add_show(commands: Any) -> None:
    sub = _add(
        commands,
        "show",
        _show,
        "Show a run's funnel, or one record's whole story.",
        "kdaug show runs/alpaca && kdaug show runs/alpaca 3f9c",
    )
    sub.add_argument("run", type=Path, help="a run folder")
    sub.add_argument("record", nargs="?", help="a record's id, or how it begins")


def _show(given: argparse.Namespace) -> int:
    from kdaug.show import Story

    story = Story(given.run)
    if given.record:
        print("\n".join(story.tell(given.record)))
        return 0
    print("\n".join(story.funnel()))
    if newest := story.newest(3):
        ids = ", ".join(found.record.id for found in newest)
        print(f"records: {ids}, … (their story: kdaug show {shlex.quote(str(given.run))} {newest[0].record.id})")
    return 0


def _add_batches(commands: Any) -> None:
    sub = _add(
        commands,
        "batches",
        _batches,
        "List the provider batches of a run with their state, or cancel those that run.",
        "kdaug batches runs/alpaca && kdaug batches runs/alpaca --cancel",
    )
    sub.add_argument("run", type=Path, help="a run folder; the run may be at work")
    sub.add_argument("--cancel", action="store_true", help="cancel the batches that still run")


def _batches(given: argparse.Namespace) -> int:
    from kdaug.batches import batches

    for line in batches(given.run, cancel=given.cancel):
        print(line)
    return 0


# -- export, push --------------------------------------------------------------------------------------------------


def _add_export(commands: Any) -> None:
    sub = _add(
        commands,
        "export",
        _export,
        "Write a dataset in another tool's format.",
        "kdaug export runs/alpaca --format alpaca --to alpaca.jsonl",
    )
    sub.add_argument("dataset", type=Path, help="a run or dataset folder")
    sub.add_argument("--format", required=True, choices=("messages", "alpaca", "sharegpt", "trl", "openai-jsonl"))
    sub.add_argument("--to", type=Path, required=True, metavar="FILE", help="the file to write")
    sub.add_argument("--kind", choices=("prompt", "completion", "preference", "unpaired"), help="default: the only one")
    sub.add_argument("--split", choices=("train", "test"), help="default: the only one")


def _export(given: argparse.Namespace) -> int:
    from kdaug.dataset import Dataset

    written = Dataset(given.dataset).export(given.to, given.format, given.kind, given.split)
    print(f"{written} records: {given.to}")
    return 0


def _add_push(commands: Any) -> None:
    sub = _add(
        commands,
        "push",
        _push,
        "Push a dataset with its card to the Hugging Face Hub.",
        "HF_TOKEN=… kdaug push runs/alpaca me/alpaca-kd --private",
    )
    sub.add_argument("dataset", type=Path, help="a run or dataset folder")
    sub.add_argument("repo", help="owner/name on the Hub")
    sub.add_argument("--private", action="store_true", help="make the repository private when it is new")
    sub.add_argument("--revision", help="a branch (main)")


def _push(given: argparse.Namespace) -> int:
    from kdaug.dataset import Dataset

    print(Dataset(given.dataset).push_to_hub(given.repo, private=given.private, revision=given.revision))
    return 0


# -- the student ---------------------------------------------------------------------------------------------------


def _add_train(commands: Any, with_options: bool) -> None:
    train = _add(
        commands,
        "train",
        lambda given: 2,
        "Train a student on a dataset.",
        "kdaug train sft --data runs/alpaca --student Qwen/Qwen3-0.6B --out models/alpaca",
    )
    if not with_options:
        return
    from dataclasses import MISSING, fields

    from kdaug.train.preference import DPO
    from kdaug.train.sft import SFT

    methods = train.add_subparsers(title="methods", metavar="METHOD", required=True)
    for name, method, summary in (
        ("sft", SFT, "Supervised fine-tuning on completions."),
        ("dpo", DPO, "Direct preference optimization on preference records."),
    ):
        sub = _add(
            methods,
            name,
            _train,
            summary,
            f"kdaug train {name} --data runs/x --student local-or-hub-model --out models/x --epochs 2",
        )
        sub.set_defaults(method=method)
        sub.add_argument(
            "--data", required=True, metavar="PATH", help="a run, a dataset, or any file that seeds may be"
        )
        sub.add_argument("--student", required=True, metavar="MODEL", help="a folder, a Hub id, or smollm2")
        sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the student is written")
        sub.add_argument("--split", default="train", help="the split to train on (train)")
        for option in fields(method):
            flag, default = "--" + option.name.replace("_", "-"), option.default
            if isinstance(default, bool):
                sub.add_argument(flag, dest=f"field_{option.name}", action=argparse.BooleanOptionalAction)
            elif default is not MISSING:
                sub.add_argument(
                    flag, dest=f"field_{option.name}", type=type(default), metavar="X", help=f"({default})"
                )


def _train(given: argparse.Namespace) -> int:
    settings = {k.removeprefix("field_"): v for k, v in vars(given).items() if k.startswith("field_") and v is not None}
    trainer = given.method(**settings)
    trainer.fit(_records(given.data, given.split), student=given.student, out=given.out)
    print(f"student: {given.out}")
    return 0


def _records(path: str, split: str) -> Any:
    """The records of one split of a dataset, or all of a file."""
    from kdaug.dataset import Dataset, is_dataset
    from kdaug.read import read

    folder = Path(path)
    if is_dataset(folder) or is_dataset(folder / "dataset"):
        return list(Dataset(folder).records(split="test" if split == "test" else "train"))
    return read(path, split=split)


def _add_prune(commands: Any) -> None:
    sub = _add(
        commands,
        "prune",
        _prune,
        "Make a smaller student: keep some of a model's layers.",
        "kdaug prune smollm2 --layers 20 --out models/small",
    )
    sub.add_argument("model", help="a folder, a Hub id, or smollm2")
    sub.add_argument("--layers", type=int, required=True, metavar="N", help="how many layers to keep")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")


def _prune(given: argparse.Namespace) -> int:
    from kdaug.train.prune import prune

    print(f"student: {prune(given.model, given.layers, given.out)}")
    return 0


def _add_eval(commands: Any) -> None:
    sub = _add(
        commands,
        "eval",
        _eval,
        "Measure a model on held-out data: NLL per token, and KL and agreement with a white-box teacher.",
        "kdaug eval models/alpaca --data runs/alpaca --teacher Qwen/Qwen3-32B",
    )
    sub.add_argument("model", help="a folder, a Hub id, or smollm2")
    sub.add_argument("--data", required=True, metavar="PATH", help="a run, a dataset, or any file that seeds may be")
    sub.add_argument("--split", default="test", help="the split to measure on (test)")
    sub.add_argument("--teacher", metavar="MODEL", help="a white-box teacher that shares the vocabulary")
    sub.add_argument("--json", action="store_true", help="print JSON")


def _eval(given: argparse.Namespace) -> int:
    import dataclasses
    import json

    from kdaug.train.evaluate import evaluate

    found = evaluate(given.model, _records(given.data, given.split), teacher=given.teacher)
    if given.json:
        print(json.dumps(dataclasses.asdict(found)))
        return 0
    for name, value in dataclasses.asdict(found).items():
        if isinstance(value, float):
            print(f"{name:>10}  {value:.4f}")
        elif value:
            print(f"{name:>10}  {len(value) if isinstance(value, tuple) else value}")
    return 0


def _add_doctor(commands: Any) -> None:
    _add(
        commands,
        "doctor",
        _doctor,
        "Say what is installed, what each extra would bring, which device and which embedded models there are.",
        "kdaug doctor",
    )


def _doctor(given: argparse.Namespace) -> int:
    from kdaug.doctor import examine

    for line in examine():
        print(line)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
