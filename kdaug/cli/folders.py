"""`kdaug init`, `show`, `report`, `batches`, `export`, `push` and `doctor`: what looks at a folder, or makes one."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from kdaug.cli.command import add
from kdaug.errors import ConfigError


def add_init(commands: Any) -> None:
    sub = add(
        commands,
        "init",
        _init,
        "Write a recipe, seeds and templates of your own to start from.",
        "kdaug init mine --method evol-instruct",
    )
    sub.add_argument("folder", type=Path, help="a folder that does not exist yet, or is empty")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--recipe", default="self-instruct", help="the built-in recipe to start from (self-instruct)")
    which.add_argument("--method", metavar="NAME", help="one of kdaug methods, with the prompts of it alone")


def _init(given: argparse.Namespace) -> int:
    from kdaug.methods import find
    from kdaug.scaffold import scaffold, scaffold_method

    told = scaffold_method(find(given.method), given.folder) if given.method else scaffold(given.recipe, given.folder)
    for line in told:
        print(line)
    return 0


def add_show(commands: Any) -> None:
    sub = add(
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


def add_report(commands: Any) -> None:
    sub = add(
        commands,
        "report",
        _report,
        "Measure how varied and how healthy a dataset is, or two side by side: one HTML page, and the numbers as JSON.",
        "kdaug report runs/alpaca && kdaug report runs/alpaca runs/evol --out compare.html",
    )
    sub.add_argument("data", nargs="+", help="one or two: a run or dataset folder, JSONL, CSV, Parquet, a Hub id")
    sub.add_argument("--out", type=Path, metavar="FILE", help="the page (report.html in the run; NAME.report.html)")
    sub.add_argument("--seeds", metavar="PATH", help="hold the instructions against these (a run's: its own seeds)")
    sub.add_argument("--sample", type=int, default=2_000, metavar="N", help="records measured in depth (2000)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample and the topics (0)")
    sub.add_argument("--split", metavar="NAME", help="one split alone (all of kdaug's own, else train)")
    sub.add_argument("--model", metavar="MODEL", help="the sentence encoder: a folder or Hub id (all-MiniLM-L6-v2)")


def _report(given: argparse.Namespace) -> int:
    from kdaug.report import Report

    options = {name: getattr(given, name) for name in ("seeds", "sample", "seed", "split", "model")}
    written = Report(**options).write(given.data, given.out)
    print(f"{written} (the numbers: {written.with_suffix('.json')})")
    return 0


def add_batches(commands: Any) -> None:
    sub = add(
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


def add_export(commands: Any) -> None:
    sub = add(
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


def add_push(commands: Any) -> None:
    sub = add(
        commands,
        "push",
        _push,
        "Push a dataset or a student with its card to the Hugging Face Hub.",
        "HF_TOKEN=… kdaug push runs/alpaca me/alpaca-kd --private && kdaug push models/alpaca me/alpaca-135m",
    )
    sub.add_argument("folder", type=Path, help="a run, a dataset folder, or a model's folder")
    sub.add_argument("repo", help="owner/name on the Hub")
    sub.add_argument("--private", action="store_true", help="make the repository private when it is new")
    sub.add_argument("--revision", help="a branch (main)")


def _push(given: argparse.Namespace) -> int:
    from kdaug.dataset import Dataset
    from kdaug.train.publish import is_model, push_model

    if given.repo.count("/") != 1:
        raise ConfigError(f"{given.repo!r} is no name on the Hub: give owner/name")
    if is_model(given.folder):
        print(push_model(given.folder, given.repo, private=given.private, revision=given.revision))
    else:
        print(Dataset(given.folder).push_to_hub(given.repo, private=given.private, revision=given.revision))
    return 0


def add_doctor(commands: Any) -> None:
    add(
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
