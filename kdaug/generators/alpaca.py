"""Alpaca: whole tasks, instruction, input and output, in one call (Stanford Alpaca, after arXiv 2212.10560)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError, shorten
from kdaug.generator import Generate
from kdaug.parsing import Task, one_line, task_triples
from kdaug.prompts import converse
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user
from kdaug.teacher import Completion


@dataclass(frozen=True)
class Alpaca:
    """Shows the parents as the first tasks of a list and has it continued up to `total` tasks; each that comes is an
    answered record.

    Draw the parents from seeds alone (`growing_pool: {from_seeds: 3, from_grown: 0}`): Alpaca shows no task that a
    model made, and has no test for classification. A cut reply loses its last task (`alpaca:cut`); a block that lacks
    one of the three fields is discarded as `alpaca:malformed`, one without an output as `alpaca:empty_output`.

    Raises ParseError("tasks") where nothing in the reply is a task, ConfigError for a seed without an answer.
    """

    total: int = 20  # authors' code
    temperature: float = 1.0  # authors' code
    top_p: float = 1.0  # authors' code
    max_tokens: int = 3072  # authors' code

    name: ClassVar[str] = "alpaca"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.total < 2:
            raise ConfigError(f"alpaca: total is {self.total}; it must be more than the tasks that are shown")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        shown = [_shown(parent) for parent in parents]
        first = len(shown) + 1
        if first > self.total:
            raise ConfigError(f"alpaca: total is {self.total}, and {len(shown)} tasks are shown: set it higher")
        reply = await generate(
            converse(f"{self.name}/tasks", shown=shown, first=first, total=self.total),
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop=(f"\n{self.total + 1}.",),
        )
        found = task_triples(reply.text)
        if not any(isinstance(task, Task) for task in found):
            raise ParseError("tasks", reply.text)
        made = [self._made(parents, task, reply) for task in found]
        if reply.cut:
            last = made[-1]
            record = last.record if isinstance(last, Discarded) else last
            made[-1] = Discarded(record, Drop("alpaca:cut"))
        return made

    def _made(self, parents: Sequence[Record], task: Task | str, reply: Completion) -> Record | Discarded:
        if isinstance(task, str):
            return Discarded(self._child(parents, task, None, {}, reply), Drop("alpaca:malformed"))
        text = f"{task.instruction}\n\n{task.input}" if task.input else task.instruction
        meta = {"instruction": task.instruction, "input": task.input}
        record = self._child(parents, text, task.output, meta, reply)
        if not task.instruction or not task.output:
            return Discarded(record, Drop("alpaca:empty_output" if task.instruction else "alpaca:malformed"))
        return record

    def _child(
        self, parents: Sequence[Record], prompt: str, output: str | None, meta: dict[str, str], reply: Completion
    ) -> Record:
        return parents[0].child(
            *parents[1:],
            by=self.name,
            replies=[reply],
            prompt=user(prompt),
            completion=assistant(output) if output else None,
            rejected=None,
            label=None,
            tools=(),
            meta=meta,
        )


def _shown(parent: Record) -> Task:
    """A seed as one of the list."""
    given, output = parent.meta.get("input"), text_of(parent.completion)
    if not output:
        raise ConfigError(
            f"alpaca: the seed {shorten(parent.instruction, 60)!r} has no answer to be shown: give it one"
        )
    return Task(one_line(parent.instruction).rstrip(": "), given if isinstance(given, str) else "", output)
