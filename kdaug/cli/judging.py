"""`kdaug judge-check`: whether a judge can be trusted."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from kdaug.cli.command import add, folder


def add_judge_check(commands: Any) -> None:
    sub = add(
        commands,
        "judge-check",
        _judge_check,
        "Measure a judge: on answers that people labelled, and on good answers beside ones that were made worse.",
        "kdaug judge-check --judge openai:gpt-4.1-mini --data labelled.jsonl --out checks/mini",
    )
    sub.add_argument("--judge", required=True, metavar="KIND:MODEL", help="the judge, such as vllm:Qwen/Qwen3-32B")
    sub.add_argument("--second", metavar="KIND:MODEL", help="another judge, to tell whether the first favours itself")
    sub.add_argument(
        "--data",
        metavar="PATH",
        help="preferences that people chose, answers with meta.score or a label, or good answers (kdaug's own seeds)",
    )
    sub.add_argument("--planted", type=int, default=20, metavar="N", help="good answers that pairs are made of (20)")
    sub.add_argument("--rubric", default="", help="what to judge by, in place of the shipped one")
    sub.add_argument("--bound", action="append", default=[], metavar="NAME=VALUE", help="change a bound: planted=0.8")
    sub.add_argument(
        "--out", type=folder, required=True, metavar="DIR", help="the check's folder, a run like any other"
    )
    sub.add_argument("--quiet", action="store_true", help="say nothing but errors and the table")


def _judge_check(given: argparse.Namespace) -> int:
    from kdaug import prompts, recipes
    from kdaug.judge_check import judge_check, parse_bounds, table
    from kdaug.progress import Log
    from kdaug.read import read

    bounds = parse_bounds(given.bound)
    data = given.data or str(prompts.shipped() / "seeds" / "seeds.jsonl")
    check = judge_check(
        Path(given.out),
        recipes.teacher(given.judge),
        read(data),
        second=recipes.teacher(given.second) if given.second else None,
        rubric=given.rubric,
        planted=given.planted,
        bounds=bounds,
        log=Log(quiet=given.quiet),
        command="kdaug " + shlex.join(sys.argv[1:]),
    )
    for line in table(check):
        print(line)
    return 0 if check["passed"] else 1
