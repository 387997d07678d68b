"""`kdaug train` and `prune`: what makes a student."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, get_args, get_type_hints

from kdaug.cli.command import add, folder, say, speaking
from kdaug.errors import ConfigError

EVERY = 10.0  # seconds between lines of progress


def add_train(commands: Any, with_options: bool) -> None:
    train = add(
        commands,
        "train",
        lambda given: 2,
        "Train a student on a dataset.",
        "kdaug train sft --data runs/alpaca --student Qwen/Qwen3-0.6B --out models/alpaca",
    )
    if not with_options:
        return
    from kdaug.train.distill import Distill
    from kdaug.train.preference import Preference
    from kdaug.train.reward import RewardModel
    from kdaug.train.sft import SFT

    methods = train.add_subparsers(title="methods", metavar="METHOD", required=True)
    for name, method, summary in (
        ("sft", SFT, "Supervised fine-tuning on completions."),
        (
            "distill",
            Distill,
            "Distillation by a --teacher, or by what a run has kept of it (run --logprobs).",
        ),
        (
            "preference",
            Preference,
            "DPO and its family on pairs, KTO on labelled answers, RRHF and PRO on ranked lists.",
        ),
        ("dpo", Preference, "The same: direct preference optimization is its default."),
        ("reward", RewardModel, "A reward model on preference records, which the gate `reward` takes."),
    ):
        sub = _add_method(methods, name, method, summary)
        if method is Distill:
            _add_teaching(sub.add_argument_group("where the teacher's view comes from"))


def _add_method(methods: Any, name: str, method: type[Any], summary: str) -> argparse.ArgumentParser:
    """A trainer's own options are its fields."""
    from kdaug.train.settings import described

    sub = add(
        methods,
        name,
        _train,
        summary,
        f"kdaug train {name} --data runs/x --student local-or-hub-model --out models/x --epochs 2",
    )
    sub.set_defaults(method=method)
    sub.add_argument("--data", required=True, metavar="PATH", help="a run, a dataset, or any file that seeds may be")
    sub.add_argument("--student", required=True, metavar="MODEL", help="a folder, a Hub id, or smollm2")
    sub.add_argument("--out", type=folder, metavar="DIR", help="where the student is written; not for --inspect")
    sub.add_argument("--split", default="train", help="the split to train on (train)")
    sub.add_argument("--inspect", type=_number, metavar="N", help="show N records as they would be trained, and stop")
    hints = get_type_hints(method)
    for field, about in described(method).items():
        kind = next((k for k in (bool, int, float, str) if k in (hints[field], *get_args(hints[field]))), None)
        _add_setting(sub, field, about, kind)
    return sub


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of records")
    return int(text)


def _add_teaching(sub: Any) -> None:
    sub.add_argument("--teacher", metavar="MODEL", help="a model of the student's vocabulary, in memory beside it")
    sub.add_argument("--run", metavar="DIR", help="without a teacher: the run that the records are of (that of --data)")
    sub.add_argument("--cache", metavar="DIR", help="with a teacher: where what it says about the data is kept")


def _add_setting(sub: argparse.ArgumentParser, field: str, about: dict[str, Any], kind: type | None) -> None:
    """An option for a trainer's field, with its type and default; none for what no command line can hold."""
    flag, default = "--" + field.replace("_", "-"), about["default"]
    says = (about["says"] if default in (None, "") else f"{about['says']} ({default})").replace("%", "%%")
    many = len(about["choices"]) >= 5
    if kind is bool:
        sub.add_argument(flag, dest=f"field_{field}", action=argparse.BooleanOptionalAction, help=says)
    elif kind is not None:
        says += ": " + ", ".join(about["choices"]) if many else ""
        metavar = "NAME" if many else "|".join(about["choices"])
        sub.add_argument(flag, dest=f"field_{field}", type=kind, metavar=metavar or "X", help=says)


def _train(given: argparse.Namespace) -> int:
    from kdaug.read import read

    settings = {k.removeprefix("field_"): v for k, v in vars(given).items() if k.startswith("field_") and v is not None}
    trainer = given.method(**settings)
    data = read(given.data, split=given.split)
    if given.inspect is not None:
        print(_inspected(trainer, data, given.student, given.inspect))
        return 0
    if given.out is None:
        raise ConfigError("give --out DIR, the folder that the student is written to")
    teaching = {name: vars(given)[name] for name in ("teacher", "run", "cache") if vars(given).get(name) is not None}
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    with speaking() if first else nullcontext():
        trainer.fit(data, student=given.student, out=given.out, on_step=progress(EVERY), **teaching)
    if first and not trainer.dry_run:
        print(f"student: {given.out}")
    return 0


def _inspected(trainer: Any, data: Any, student: str, samples: int) -> str:
    from kdaug.chat import Chat
    from kdaug.train.inspection import inspect
    from kdaug.train.ranked import RANKING_LOSSES
    from kdaug.train.student import locate

    chat = Chat.load(locate(student))
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    encoded = trainer.encoded(data, chat)
    lists = trainer.lists(encoded) if getattr(trainer, "loss", "") in RANKING_LOSSES else None
    return inspect(encoded, chat, samples, colour, lists)


def progress(every: float) -> Callable[[Any], None]:
    """Says where a training is, at its first and last step and every so many seconds between."""
    said = -math.inf

    def on_step(step: Any) -> None:
        nonlocal said
        now = time.monotonic()
        if step.step in (1, step.steps) or now - said >= every or step.held_out is not None:
            said = now
            held_out = f", held-out {step.held_out:.4f}" if step.held_out is not None else ""
            say(
                f"step {step.step}/{step.steps}: loss {step.loss:.4f}{held_out}, {step.tokens_per_second:,.0f} tokens/s"
            )

    return on_step


def add_prune(commands: Any) -> None:
    sub = add(
        commands,
        "prune",
        _prune,
        "Make a smaller student: keep some of a model's layers.",
        "kdaug prune smollm2 --layers 20 --out models/small",
    )
    sub.add_argument("model", help="a folder, a Hub id, or smollm2")
    sub.add_argument("--layers", type=int, required=True, metavar="N", help="how many layers to keep")
    sub.add_argument("--out", type=folder, required=True, metavar="DIR")


def _prune(given: argparse.Namespace) -> int:
    from kdaug.train.prune import prune

    print(f"student: {prune(given.model, given.layers, given.out)}")
    return 0
