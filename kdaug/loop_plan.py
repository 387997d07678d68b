"""How the rounds of a loop follow each other: what is trained from what, on what, and when it ends."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from kdaug.errors import ConfigError
from kdaug.recipe import differences


class Trainer(Protocol):
    """What `SFT`, `Distill` and `Preference` are."""

    @property
    def kind(self) -> Any: ...
    def fit(self, data: Any, *, student: str | Path, out: str | Path, on_step: Any = None) -> Path: ...


@dataclass(frozen=True, kw_only=True)
class Measure:
    """By what a round's student is judged: `metric` of its greedy replies to the tasks of a file (`answer`: it ends in
    the reference's answer), or with `nll` how unlikely it finds the answers of the file's records."""

    tasks: Path
    metric: Literal["answer", "exact_match", "rouge_l", "nll"] = "answer"
    max_tokens: int = 256

    @property
    def sign(self) -> int:
        """1 where more is better."""
        return -1 if self.metric == "nll" else 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How rounds follow each other.

    `train` makes each round's student of what the round's run kept: from the student that the loop began with
    (`start="base"`: STaR, ReST-EM, LLM2LLM), or from the last round's (`"last"`: SPIN, self-rewarding, Lion). Whatever
    it begins with, the last round's student plays the role `student` in the next run.

    `first` trains the student on the seeds before the first round. With `steps` the rounds take steps, steps * growth,
    steps * growth², …, rounded down (STaR, arXiv 2203.14465, §4: 40 and 1.2). `history`: the records of how many rounds
    are trained on (SPIN: 2; 0: of all), `with_seeds`: and the seeds. `grow`: what a round kept is among the seeds of
    the next. With `patience` and `evaluate` the loop ends when so many rounds in a row did not
    better the best figure by more than `min_gain`.
    """

    train: Trainer
    start: Literal["base", "last"] = "base"
    first: Trainer | None = None
    steps: int = 0
    growth: float = 1.0
    history: int = 1
    with_seeds: bool = False
    grow: bool = False
    evaluate: Measure | None = None
    patience: int = 0
    min_gain: float = 0.0

    def __post_init__(self) -> None:
        if self.start not in ("base", "last"):
            raise ConfigError(f'start must be "base" or "last", not {self.start!r}')
        if self.steps < 0 or self.growth <= 0 or self.history < 0 or self.patience < 0:
            raise ConfigError("steps, history and patience are 0 or more, growth is more than 0")

    def trainer(self, number: int) -> Trainer:
        """That of a round, with its number of steps."""
        if not self.steps:
            return self.train
        return replace(self.train, steps=int(self.steps * self.growth**number))  # type: ignore[type-var] # trainers are dataclasses

    def trained_on(self, number: int) -> range:
        """The rounds whose records the student of a round is made of."""
        return range(0 if self.history == 0 else max(0, number + 1 - self.history), number + 1)

    def describe(self) -> dict[str, Any]:
        """What makes this loop this one and no other; when it ends may change."""
        plain: dict[str, Any] = {
            name: getattr(self, name) for name in ("start", "steps", "growth", "history", "with_seeds", "grow")
        }
        plain |= {name: _settings(getattr(self, name)) for name in ("train", "first")}
        if (measure := self.evaluate) is not None:
            content = hashlib.blake2b(measure.tasks.read_bytes(), digest_size=8).hexdigest()
            plain["evaluate"] = {"tasks": content, "metric": measure.metric, "max_tokens": measure.max_tokens}
        return plain


def what_changed(before: Mapping[str, Any], now: Mapping[str, Any], base: str, seeds_from: str) -> list[str]:
    """What of a loop is not as its loop.json says, each by its field or file. A loop of an earlier version told less of
    itself: what it did not tell is not looked at."""
    told = {name: before[name] for name in now if name in before}
    changed: list[str] = []
    for line in differences(told, {name: now[name] for name in told}):
        name, _, values = line.partition(": ")
        if name == "base":
            old = before["student"]
            changed.append(
                f"base (--student): {f'{old} -> {base}' if old != base else f'its files are others, {values}'}"
            )
        elif name.startswith("described."):
            changed.append(f"{line.removeprefix('described.')}{f' ({seeds_from})' if name.endswith('.seeds') else ''}")
        elif name == "recipe" and "described" in told:  # the fields say it
            continue
        else:
            changed.append(line.removeprefix("dataset."))
    return [line for line in changed if not line.startswith("name: ")]


def _settings(trainer: Any) -> dict[str, Any] | None:
    """A trainer's fields, without those that a training may be resumed with another value of."""
    if trainer is None:
        return None
    from kdaug.train.settings import described

    fixed = {name: getattr(trainer, name) for name, about in described(type(trainer)).items() if not about["free"]}
    return {type(trainer).__name__: fixed}
