"""How often a judge finds one model's answers better than another's, asked in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, TrainError
from kdaug.generator import Generate
from kdaug.intervals import wilson
from kdaug.judging import compare
from kdaug.progress import Log
from kdaug.record import Record, assistant
from kdaug.teacher import Completion, Teacher
from kdaug.train.comparison import Figure, Row, Table
from kdaug.train.generation import ask, prompts_of


@dataclass(frozen=True)
class Duel:
    """Two models answer a prompt greedily, and a judge compares the answers in both orders.

    `scores["won"]`: 1 where the model's is better, 0 where the other's is, 0.5 for a tie; a verdict that turns with the
    order is one, and equal answers are, unasked. The names of the three are part of the run's identity.
    """

    model: str
    other: str
    judge: str
    rubric: str = ""
    max_tokens: int = 512

    name: ClassVar[str] = "duel"
    roles: ClassVar[tuple[str, ...]] = ("model", "other", "judge")

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> Sequence[Record]:
        (task,) = parents

        async def answer(role: str) -> Completion:
            return await generate(task.prompt, role=role, temperature=0.0, max_tokens=self.max_tokens)

        mine, theirs = await answer("model"), await answer("other")
        made = task.child(
            by=self.name, replies=[mine, theirs], completion=assistant(mine.text), rejected=assistant(theirs.text)
        )
        if mine.text.strip() == theirs.text.strip():
            return [made.scored(won=0.5)]
        told = await compare(made, assistant(theirs.text), generate, rubric=self.rubric)
        return [made.scored(won=told.score, turned=float(told.orders[0] != told.orders[1]))]


@dataclass(frozen=True, slots=True)
class Called:
    """A model with the name that it goes by in the table."""

    name: str
    teacher: Teacher


def win_rate(
    model: Called,
    other: Called,
    judge: Teacher,
    data: Sequence[Record],
    name: str,
    *,
    rubric: str = "",
    max_tokens: int = 512,
    out: Path | None = None,
    log: Log | None = None,
) -> Table:
    """`model` against `other` on the prompts of `data` (named `name`), as a table. A tie is half a win.

    The interval is Wilson's, which is on the safe side where there are ties. Raises ConfigError where there is no
    prompt, TrainError where no verdict could be had, and what the run raises.
    """
    prompts = [Record(prompt=prompt) for prompt in prompts_of(data)]
    if not prompts:
        raise ConfigError(f"{name} holds no prompts: there is nothing for the two models to answer")
    duel = Duel(model.teacher.name, other.teacher.name, judge.name, rubric, max_tokens)
    players = {"model": model.teacher, "other": other.teacher, "judge": judge}
    asked = ask(duel, prompts, players, out, log)
    won = [record.scores["won"] for record in asked.made.values()]
    if not won:
        raise TrainError(
            f"{judge.name} gave no verdict on any of {len(prompts)} prompts: check it with kdaug judge-check"
        )
    turned = sum(record.scores.get("turned", 0.0) for record in asked.made.values())
    n = len(won)
    figures = {"win_rate": Figure(sum(won) / n, *wilson(sum(won), n), n)}
    figures |= {
        kind: Figure(won.count(mark) / n, n=n) for kind, mark in (("wins", 1.0), ("ties", 0.5), ("losses", 0.0))
    }
    about = (
        f"{n} prompts, greedy answers of at most {max_tokens} tokens, judged by {judge.name} in both orders; "
        f"{turned:.0f} verdicts turned with the order and are ties, which count half. In brackets Wilson's 95 % "
        "interval."
    )
    return Table(f"Win rate against {other.name}", name, [Row(model.name, figures)], about, asked.notes("are left out"))
