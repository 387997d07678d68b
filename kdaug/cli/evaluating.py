"""`kdaug eval`: how good a student is."""

from __future__ import annotations

import argparse
from typing import Any

from kdaug.cli.command import add


def add_eval(commands: Any) -> None:
    sub = add(
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

    from kdaug.read import read
    from kdaug.train.evaluate import evaluate

    found = evaluate(given.model, read(given.data, split=given.split), teacher=given.teacher)
    if given.json:
        print(json.dumps(dataclasses.asdict(found)))
        return 0
    for name, value in dataclasses.asdict(found).items():
        if isinstance(value, float):
            print(f"{name:>10}  {value:.4f}")
        elif value:
            print(f"{name:>10}  {len(value) if isinstance(value, tuple) else value}")
    return 0
