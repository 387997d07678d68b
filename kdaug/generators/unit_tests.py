"""Unit tests: a teacher writes tests for a task, and what solutions and tests agree on is kept."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.programs import Trial, code_block, try_program
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Json, Record, assistant, text_of
from kdaug.samples import sampled, unusable
from kdaug.sandbox import Limits, Sandbox
from kdaug.teacher import Completion


@dataclass(frozen=True)
class UnitTests:
    """The teacher writes tests from the task alone, never from a solution, and they are run against the record's answer
    or, where it has none, `samples` solutions of the teacher's.

    Solutions that pass the same tests agree (CodeT, arXiv 2207.10397, §2): of all such groups the one with the highest
    number of solutions times tests is kept, of equal ones the first. Its first solution is the record's answer, its
    tests are `meta[tests]`, for the gate `code`. Less than `min_tests` of them: `unit_tests:inconsistent`.

    Raises ParseError("tests") for tests that are no Python, or none.
    """

    count: int = 5
    min_tests: int = 2
    samples: int = 4
    tests: str = "tests"
    temperature: float = 0.8
    max_tokens: int = 1024
    cpu: int = 5
    memory: int = 512
    sandbox: Sandbox = field(init=False, repr=False, compare=False)

    name: ClassVar[str] = "unit_tests"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)
    needs: ClassVar[tuple[str, ...]] = ("sandbox",)

    def __post_init__(self) -> None:
        if not 1 <= self.min_tests <= self.count or self.samples < 1:
            raise ConfigError(
                f"unit_tests: min_tests {self.min_tests} must be from 1 to count {self.count}, and samples positive"
            )
        object.__setattr__(self, "sandbox", Sandbox(Limits(cpu=self.cpu, memory=self.memory)))

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        task = text_of(record.prompt)
        asked = render(f"{self.name}/tests", task=task, count=self.count)
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        if drop := unusable(reply, self.name, text="tests"):
            return [Discarded(record, drop)]
        tests = split_tests(reply.text)

        solutions, turned_down = await self._solutions(record, task, generate)
        written = "\n\n".join(tests.values())
        trials = await asyncio.gather(*(try_program(code, written, self.sandbox) for code, _ in solutions))
        names = list(tests)[1:]
        agreed, first = consensus(names, trials)
        if len(agreed) < self.min_tests:
            told: list[Json] = [{"wrong": trial.wrong, **trial.evidence} for trial in trials]
            return [
                Discarded(record, Drop("unit_tests:inconsistent", {"agreed": [*agreed], "trials": told})),
                *turned_down,
            ]
        code, made_from = solutions[first]
        answer = record.completion or assistant(f"```python\n{code}```")
        child = record.child(by=self.name, replies=[reply, *made_from], completion=answer)
        kept: list[Json] = [text for name, text in tests.items() if text and (not name or name in agreed)]
        child = replace(child, meta={**record.meta, self.tests: kept})
        return [child.scored(tests=len(agreed) / len(names)), *turned_down]

    async def _solutions(
        self, record: Record, task: str, generate: Generate
    ) -> tuple[list[tuple[str, list[Completion]]], list[Discarded]]:
        """The programs with the replies that they are from, and replies that are none."""
        if record.completion is not None:
            return [(code_block(text_of(record.completion)), [])], []
        asked = render(f"{self.name}/solve", task=task)
        calls = [generate(asked, temperature=self.temperature, max_tokens=self.max_tokens) for _ in range(self.samples)]
        usable, turned_down = await sampled(record, calls, by=self.name)
        return [(code_block(sample.text), [sample]) for sample in usable], turned_down


def split_tests(reply: str) -> dict[str, str]:
    """The test functions by their names; under "" what stands around them. Raises ParseError("tests")."""
    text = code_block(reply)
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError) as e:
        raise ParseError("tests", reply) from e
    lines = text.splitlines()
    around: list[str] = []
    found: dict[str, str] = {}
    for node in body:
        source = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            found[node.name] = source
        elif not isinstance(node, ast.Assert | ast.Expr | ast.If):  # no asserts outside, no call of all of them
            around.append(source)
    if not found:
        raise ParseError("tests", reply)
    return {"": "\n".join(around), **found}


def consensus(tests: Sequence[str], trials: Sequence[Trial]) -> tuple[list[str], int]:
    """The tests that the best group of solutions passes, and the first solution of it."""
    passed = [tuple(t for t in tests if t not in trial.failed) if trial.ran else () for trial in trials]
    weights = [passed.count(group) * len(group) for group in passed]
    if not weights:
        return [], 0
    first = weights.index(max(weights))
    return list(passed[first]), first
