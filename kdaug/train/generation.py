"""What a model says to the prompts of a task file, and how good that is: exact match, ROUGE-L, choices by likelihood.

The model is a teacher as any other, so it may be a folder, an engine or an endpoint. It is asked in a run: what was
answered is in that run's journal, and not asked again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, ClassVar

from kdaug.errors import ConfigError
from kdaug.generator import Generate, Generator
from kdaug.intervals import bootstrap_ratio, wilson
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Messages, Record, assistant, text_of
from kdaug.running import execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import ScoringTeacher, Teacher
from kdaug.train.comparison import Figure, Row, Table
from kdaug.train.tasks import ABOUT, CHOICE, MARKS, Task, by_prompt

SHARES = ("exact_match", "answer")  # marks of 0 and 1


@dataclass(frozen=True)
class Attempt:
    """Answers a prompt greedily. `model`: its name, so that a run of one model is not taken for another's."""

    model: str
    max_tokens: int

    name: ClassVar[str] = "attempt"
    roles: ClassVar[tuple[str, ...]] = ("model",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> Sequence[Record]:
        (task,) = parents
        reply = await generate(task.prompt, role="model", temperature=0.0, max_tokens=self.max_tokens)
        return [task.child(by=self.name, replies=[reply], completion=assistant(reply.text))]


@dataclass(frozen=True)
class Likelihood:
    """Scores an answer that is given: `scores["logprob"]` is the sum over its tokens.

    The end of the turn does not count: a model that would go on ("Rome is …") still prefers Rome to Paris.
    """

    model: str

    name: ClassVar[str] = "likelihood"
    roles: ClassVar[tuple[str, ...]] = ("model",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> Sequence[Record]:
        (given,) = parents
        view = await generate.logprobs(given.prompt, given.completion or (), role="model")
        return [given.child(by=self.name, scores={"logprob": float(view.token_logprobs[:-1].sum())})]


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of a run of prompts: records made, by the id of what they were made from, and why others came to
    nothing."""

    made: Mapping[str, Record]
    failed: Mapping[str, int]

    def notes(self, means: str) -> list[str]:
        if not self.failed:
            return []
        reasons = ", ".join(f"{reason} {n}" for reason, n in self.failed.items())
        return [f"{sum(self.failed.values())} came to nothing ({reasons}) and {means}"]


def ask(
    generator: Generator, prompts: Sequence[Record], players: Mapping[str, Teacher], out: Path | None, log: Log | None
) -> Asked:
    """Runs a generator over prompts in the folder `out`, or in one that is thrown away. Raises what the run raises."""
    with _folder(out) as folder:
        recipe = Recipe(Each(prompts), [Stage(generator)], name=f"eval-{generator.name}")
        outcome = execute(recipe, folder, players, log=log or Log(quiet=True))
        if outcome.error is not None:
            raise outcome.error
        if outcome.exit_code == 130:
            raise KeyboardInterrupt
        made = {record.parents[0]: record for record in outcome.dataset.records()}
        return Asked(made, dict(outcome.facts["stages"][0]["dropped"]))


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="kdaug-eval-") as folder:
        yield Path(folder)


def compare_on_tasks(
    models: Mapping[str, Teacher],
    tasks: Sequence[Task],
    metric: str,
    name: str,
    *,
    max_tokens: int = 256,
    seed: int = 0,
    out: Path | None = None,
    log: Log | None = None,
) -> Table:
    """One metric of several models on the same tasks (named `name`), as a table.

    Intervals: Wilson's for shares, a bootstrap over tasks for ROUGE-L. Raises ConfigError for `choice` with a model
    that cannot tell log-probabilities, and what the run raises.
    """
    rows, notes = [], list[str]()
    for place, (called, model) in enumerate(models.items()):
        folder = None if out is None else out / f"{place}-{metric}"
        how: dict[str, Any] = {"out": folder, "log": log}
        if metric == CHOICE:
            figures, failed = _chosen(model, tasks, **how)
        else:
            figures, failed = _replied(model, tasks, metric, max_tokens, seed, **how)
        rows.append(Row(called, figures))
        notes += [f"{called}: {note}" for note in failed]
    greedy = "" if metric == CHOICE else f"greedy replies of at most {max_tokens} tokens; "
    about = f"{len(tasks)} tasks; {greedy}{ABOUT[metric]}. In brackets 95 % intervals ({_interval(metric, seed)})."
    return Table(f"Tasks, {metric}", name, rows, about, notes)


def _replied(
    model: Teacher, tasks: Sequence[Task], metric: str, max_tokens: int, seed: int, **how: Any
) -> tuple[dict[str, Figure], list[str]]:
    prompts = {prompt: Record(prompt=prompt) for prompt in by_prompt(tasks)}
    asked = ask(Attempt(model.name, max_tokens), list(prompts.values()), {"model": model}, **how)
    marks = []
    for task in tasks:
        reply = asked.made.get(prompts[task.prompt].id)
        marks.append(0.0 if reply is None else MARKS[metric](text_of(reply.completion), task.references))
    bounds = wilson(sum(marks), len(marks)) if metric in SHARES else bootstrap_ratio(marks, [1.0] * len(marks), seed)
    return {metric: Figure(fmean(marks), *bounds, len(marks))}, asked.notes("count as wrong")


def _chosen(model: Teacher, tasks: Sequence[Task], **how: Any) -> tuple[dict[str, Figure], list[str]]:
    if not isinstance(model, ScoringTeacher):
        raise ConfigError(
            f"{model.name} cannot tell log-probabilities of a given answer, so choices cannot be measured with it: "
            "use local:MODEL or vllm:MODEL, or the metric exact_match"
        )
    answers = {
        (task.prompt, choice): Record(prompt=task.prompt, completion=assistant(choice))
        for task in tasks
        for choice in task.choices
    }
    asked = ask(Likelihood(model.name), list({r.id: r for r in answers.values()}.values()), {"model": model}, **how)
    by_sum = by_norm = 0
    for task in tasks:
        found = [asked.made.get(answers[task.prompt, choice].id) for choice in task.choices]
        sums = [float("-inf") if one is None else one.scores["logprob"] for one in found]
        by_sum += _best(sums) == task.right
        by_norm += _best([s / len(choice) for s, choice in zip(sums, task.choices, strict=True)]) == task.right
    n = len(tasks)
    figures = {
        name: Figure(hits / n, *wilson(hits, n), n) for name, hits in (("choice", by_sum), ("choice_norm", by_norm))
    }
    return figures, asked.notes("are never chosen")


def _best(values: Sequence[float]) -> int | None:
    """The first of the highest; none where no choice could be scored."""
    best = max(values)
    return None if best == float("-inf") else values.index(best)


def _interval(metric: str, seed: int) -> str:
    return f"a bootstrap over tasks, seed {seed}" if metric == "rouge_l" else "Wilson's"


def prompts_of(records: Sequence[Record]) -> list[Messages]:
    """Every prompt of some records once."""
    return list(dict.fromkeys(record.prompt for record in records))
