"""`kdaug eval`: how good a student is, beside other models."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaug.cli.command import add, folder, say
from kdaug.errors import ConfigError

if TYPE_CHECKING:
    from kdaug.progress import Log
    from kdaug.record import Record
    from kdaug.teacher import Teacher
    from kdaug.train.comparison import Table

METRICS = ("exact_match", "answer", "rouge_l", "choice")
# Options that say nothing without one of these.
IDLE = {"teacher": ("data",), "max_tokens": ("tasks", "against"), "rubric": ("against",), "limit": ("lm_eval",)}


def add_eval(commands: Any) -> None:
    sub = add(
        commands,
        "eval",
        _eval,
        "Measure models side by side: likelihood of held-out data, task files, a judge's verdicts, lm-eval.",
        "kdaug eval models/alpaca smollm2 --data runs/alpaca --teacher Qwen/Qwen3-32B --to table.md",
    )
    sub.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a folder, a Hub id, smollm2; for --tasks and --against also KIND:MODEL",
    )
    held = sub.add_argument_group("held-out data: NLL per token, and KL and agreement with a white-box teacher")
    held.add_argument("--data", metavar="PATH", help="a run, a dataset, or any file that seeds may be")
    held.add_argument("--split", default="test", help="the split to measure on (test; a plain file has none)")
    held.add_argument("--teacher", metavar="MODEL", help="a white-box teacher that shares the vocabulary")
    held.add_argument("--length", type=int, default=2048, metavar="N", help="tokens; longer records are cut (2048)")
    tasks = sub.add_argument_group("tasks: greedy replies against references, or the likeliest of choices")
    tasks.add_argument("--tasks", metavar="FILE", help="prompts with a completion or an answer; see docs/training.md")
    tasks.add_argument("--metric", choices=METRICS, help="how a reply is marked")
    tasks.add_argument("--max-tokens", type=int, metavar="N", help="of a reply (256; 512 in a duel)")
    duel = sub.add_argument_group("win rate: a judge compares the answers to the prompts of --data, in both orders")
    duel.add_argument("--against", metavar="MODEL", help="the model to beat")
    duel.add_argument("--judge", metavar="KIND:MODEL", help="the judge, such as openai:gpt-4.1-mini")
    duel.add_argument("--rubric", default="", help="what to judge by, in place of the shipped one")
    lm = sub.add_argument_group("lm-eval")
    lm.add_argument("--lm-eval", metavar="PATH", help="the YAML file of a task, or a folder of them")
    lm.add_argument("--limit", type=int, metavar="N", help="examples of each task (all)")
    more = sub.add_argument_group("what becomes of it")
    more.add_argument("--to", type=Path, metavar="FILE", help="write the tables there: .md or .json")
    more.add_argument("--json", action="store_true", help="print JSON")
    more.add_argument(
        "--out", type=folder, metavar="DIR", help="keep what was asked: the same command goes on from there"
    )
    more.add_argument("--no-card", action="store_true", help="leave the cards of students as they are")
    more.add_argument("--seed", type=int, default=0, metavar="N", help="of the intervals' resampling (0)")
    more.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (auto)")
    more.add_argument("--dtype", default="auto", help="to compute in: auto, bfloat16 or float32 (auto)")


def _eval(given: argparse.Namespace) -> int:
    from kdaug.train import comparison

    _check(given)
    if given.to is not None:
        comparison.check_ending(given.to)
    models = _named(given.models)
    _find([*given.models, *filter(None, (given.against, given.teacher))])
    tables = list(_tables(given, models))
    if not given.no_card:
        for called, model in models.items():
            _into_card(Path(model), [table for table in tables if called in (row.model for row in table.rows)])
    if given.to is not None:
        comparison.write(tables, given.to)
    print(comparison.to_json(tables) if given.json else comparison.markdown(tables))
    return 0


def _check(given: argparse.Namespace) -> None:
    """Raises ConfigError for options that need others, before anything is loaded."""
    if given.against and not given.data:
        raise ConfigError("--against needs prompts to answer: give --data")
    if not (given.data or given.tasks or given.lm_eval):
        raise ConfigError("nothing to measure by: give --data, --tasks or --lm-eval")
    if bool(given.tasks) != bool(given.metric):
        raise ConfigError(f"--tasks and --metric go together: give --metric {'|'.join(METRICS)} and --tasks FILE")
    if bool(given.against) != bool(given.judge):
        raise ConfigError("--against and --judge go together: a judge compares two models")
    if given.against and given.teacher:
        raise ConfigError("--teacher and --against are two measurements: give them in two commands")
    for name, needs in IDLE.items():
        if vars(given)[name] not in (None, "") and not any(vars(given)[one] for one in needs):
            wanted = " or ".join(f"--{one.replace('_', '-')}" for one in needs)
            raise ConfigError(f"--{name.replace('_', '-')} is for {wanted}, which is not given")
    for name in ("max_tokens", "limit"):
        if (number := vars(given)[name]) is not None and number < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {number}: give a number from 1 on")
    twice = [model for model in given.models if given.models.count(model) > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice: a model stands once in a table")


def _find(models: Sequence[str]) -> None:
    """Raises ConfigError where one is not there, before the first of them is asked."""
    from kdaug import recipes
    from kdaug.train.student import locate

    for model in models:
        if kind_of(model) in ("", "local"):
            locate(white_box(model))
        else:
            recipes.teacher(model)


def _named(models: Sequence[str]) -> dict[str, str]:
    """Models by the names that they go by in tables: short ones, without this machine's paths, where they differ."""
    short = [_short(model) for model in models]
    return {name if short.count(name) == 1 else model: model for name, model in zip(short, models, strict=True)}


def _short(model: str) -> str:
    from kdaug.train.origin import short_name

    return model.partition("?")[0] if kind_of(model) else short_name(model)


def _tables(given: argparse.Namespace, models: Mapping[str, str]) -> Iterator[Table]:
    if given.against:
        yield from _duels(given, models)
    elif given.data:
        yield _held_out(given, models)
    if given.tasks:
        yield _on_tasks(given, models)
    if given.lm_eval:
        from kdaug.train.lm_eval import compare_lm_eval

        loaded = {called: white_box(model) for called, model in models.items()}
        yield compare_lm_eval(loaded, given.lm_eval, device=given.device, dtype=given.dtype, limit=given.limit)


def _held_out(given: argparse.Namespace, models: Mapping[str, str]) -> Table:
    from kdaug.train.evaluate import compare_held_out

    loaded = {called: white_box(model) for called, model in models.items()}
    teacher = white_box(given.teacher) if given.teacher else None
    data, name = _records(given), _name(given.data, given.split)
    how = {"length": given.length, "device": given.device, "dtype": given.dtype, "seed": given.seed}
    return _warned(compare_held_out(loaded, data, name, teacher=teacher, **how), models, data)


def _on_tasks(given: argparse.Namespace, models: Mapping[str, str]) -> Table:
    from kdaug.record import Record, assistant
    from kdaug.train.generation import compare_on_tasks
    from kdaug.train.tasks import read_tasks

    tasks = read_tasks(given.tasks, given.metric, given.split)
    asked = {called: _teacher(given, model) for called, model in models.items()}
    how = {"max_tokens": given.max_tokens or 256, "seed": given.seed, "out": given.out, "log": _log(given)}
    measured = [Record(prompt=task.prompt, completion=assistant(good)) for task in tasks for good in task.good]
    table = compare_on_tasks(asked, tasks, given.metric, _name(given.tasks, given.split), **how)
    return _warned(table, models, measured)


def _duels(given: argparse.Namespace, models: Mapping[str, str]) -> Iterator[Table]:
    from kdaug import recipes
    from kdaug.train.win_rate import Called, win_rate

    data, name, judge = _records(given), _name(given.data, given.split), recipes.teacher(given.judge)
    other = Called(_short(given.against), _teacher(given, given.against))
    for place, (called, model) in enumerate(models.items()):
        out = None if given.out is None else given.out / f"{place}-duel"
        how = {"rubric": given.rubric, "max_tokens": given.max_tokens or 512, "out": out, "log": _log(given)}
        table = win_rate(Called(called, _teacher(given, model)), other, judge, data, name, **how)
        yield _warned(table, {called: model}, data)


def _log(given: argparse.Namespace) -> Log:
    """What a run says while it runs: only where it is kept."""
    from kdaug.progress import Log

    return Log(quiet=given.out is None)


def _records(given: argparse.Namespace) -> Sequence[Record]:
    from kdaug.read import read

    return read(given.data, split=given.split)


def _name(source: str, split: str) -> str:
    """Of the data, for people; the split only where there are several."""
    from kdaug.train.origin import short_name

    return f"{short_name(source)} ({split})" if not Path(source).is_file() else short_name(source)


def _warned(table: Table, models: Mapping[str, str], measured: Sequence[Record]) -> Table:
    """The table with what is to be said of students that were trained on what they are measured by."""
    from dataclasses import replace

    from kdaug.train.contamination import warnings

    found = [warning for called, model in models.items() for warning in warnings(called, Path(model), measured)]
    for note in (*table.notes, *found):
        say(f"warning: {note}")
    return replace(table, notes=[*table.notes, *found])


def kind_of(model: str) -> str:
    """That of a teacher's spec (`openai` of `openai:gpt-4.1-mini`, or `fake` alone), empty for a model's plain name."""
    from kdaug.recipes import TEACHERS

    kind = model.partition(":")[0]
    return kind if kind in TEACHERS and not Path(model).exists() else ""


def white_box(model: str) -> str:
    """The folder or name of a model that has to be loaded here."""
    kind = kind_of(model)
    if kind not in ("", "local"):
        raise ConfigError(f"{model}: likelihoods need the weights: give a folder, a Hub id or smollm2, not {kind}:")
    return model.removeprefix("local:").partition("?")[0]


def _teacher(given: argparse.Namespace, model: str) -> Teacher:
    """A model that is asked, in this process where nothing else is said."""
    from kdaug import recipes
    from kdaug.teachers.local import Local

    return recipes.teacher(model) if kind_of(model) else Local(model, device=given.device, dtype=given.dtype)


def _into_card(model: Path, tables: Sequence[Table]) -> None:
    from kdaug.train import comparison
    from kdaug.train.model_card import is_student, rewrite_card

    if is_student(model):
        comparison.remember(model, tables)
        rewrite_card(model)
        say(f"card: {shlex.quote(str(model / 'README.md'))}")
