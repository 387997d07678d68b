"""Auto Evol-Instruct: a model rewrites the method by which instructions are evolved (arXiv 2406.00770)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError, TeacherError
from kdaug.generator import Generate, settled
from kdaug.generators.evol_instruct import evolution
from kdaug.parsing import sections
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Messages, Record
from kdaug.teacher import Completion

# What an answer says when the evolved instruction is none: it only acknowledges, asks what is meant, or asks for more.
FAILURES = {
    "stagnant": re.compile(r"\b(?:understood|thank you|thanks|noted|got it|okay|alright)\b.*\?\s*$", re.I | re.S),
    "insufficient": re.compile(
        r"\b(?:sure|certainly|of course|happy to help)\b.*(?:\?\s*$|what do you mean|could you explain)", re.I | re.S
    ),
    "loss": re.compile(r"please provide|need more information|could you clarify|what exactly", re.I),
}


@dataclass(frozen=True)
class Evolved:
    """One try: the record with its answer, or the parent (unchanged) and why it stays."""

    made: Record | Discarded

    @property
    def failed(self) -> bool:
        return isinstance(self.made, Discarded)


@dataclass(frozen=True)
class AutoEvol:
    """Evolves a batch of instructions by a method that is first made better on a part of it.

    The first `dev` parents are the development set. They are evolved for `rounds` by the method in use, the optimizer
    reads what came of it and says what is wrong, and writes `candidates` new methods; the one whose evolved
    instructions fail least on the development set takes the place of the method in use, if it fails less often. That is
    done until there is no gain, `steps` times at most. Then all parents are evolved and answered by what is left.

    An evolution fails where its reply lacks the last heading or was cut, and where the *answer* acknowledges, asks back
    or asks for more (`FAILURES`); it is discarded as `auto_evol:<failure>` and its parent kept for the next round.
    Draw the batch with `growing_pool: {from_seeds: 10, from_grown: 0}`.
    """

    dev: int = 4
    rounds: int = 2
    candidates: int = 3
    steps: int = 3
    temperature: float = 0.5
    max_tokens: int = 2048
    optimizer: str = "optimizer"

    name: ClassVar[str] = "auto_evol"

    def __post_init__(self) -> None:
        if min(self.dev, self.rounds, self.candidates) < 1 or self.steps < 0:
            raise ConfigError("auto_evol: dev, rounds and candidates must be at least 1, steps at least 0")

    @property
    def roles(self) -> tuple[str, ...]:
        return ("teacher", self.optimizer)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        method = await self._optimized(parents[: self.dev], generate)
        lines = await settled(
            [self._line(parent, method, generate.branch(f"evolve.{n}")) for n, parent in enumerate(parents)]
        )
        made: list[Record | Discarded] = []
        for parent, line in zip(parents, lines, strict=True):
            if isinstance(line, TeacherError | ParseError):
                made.append(Discarded(parent, Drop(line.reason, {"error": str(line)})))
            else:
                made += [evolved.made for evolved in line]
        return made

    async def _optimized(self, dev: Sequence[Record], generate: Generate) -> str:
        """The best method that the steps come to."""
        method = render(f"{self.name}/first_method")
        tried = await self._trajectories(dev, method, generate.branch("0"))
        least = failure_rate(tried)
        for step in range(1, self.steps + 1):
            scope = generate.branch(str(step))
            told = render(f"{self.name}/feedback", method=method, tried=[_told(t) for t in tried])
            feedback = await scope(told, role=self.optimizer, temperature=self.temperature, max_tokens=self.max_tokens)
            asked = render(f"{self.name}/improve", method=method, feedback=feedback.text)
            replies = await settled([self._improve(asked, scope.branch(n)) for n in range(self.candidates)])
            methods = [m for m in replies if isinstance(m, str)]
            trials = [await self._trajectories(dev, m, scope.branch(f"try.{n}")) for n, m in enumerate(methods)]
            best = min(range(len(methods)), key=lambda n: failure_rate(trials[n]), default=None)
            if best is None or failure_rate(trials[best]) >= least:
                return method
            method, tried, least = methods[best], trials[best], failure_rate(trials[best])
        return method

    async def _improve(self, asked: str, generate: Generate) -> str:
        reply = await generate(asked, role=self.optimizer, temperature=self.temperature, max_tokens=self.max_tokens)
        found = sections(reply.text, ["Method"])
        if reply.cut or found is None:
            raise ParseError("method", reply.text)
        return found[0]

    async def _trajectories(self, dev: Sequence[Record], method: str, generate: Generate) -> list[Evolved]:
        lines = await settled([self._line(record, method, generate.branch(n)) for n, record in enumerate(dev)])
        tried: list[Evolved] = []
        for record, line in zip(dev, lines, strict=True):
            if isinstance(line, TeacherError | ParseError):  # it failed, which must make no method look better
                tried += [Evolved(Discarded(record, Drop(line.reason)))] * self.rounds
            else:
                tried += line
        return tried

    async def _line(self, parent: Record, method: str, generate: Generate) -> list[Evolved]:
        """The rounds of one instruction; after a failure the same parent is tried again."""
        tried: list[Evolved] = []
        for _ in range(self.rounds):
            tried.append(Evolved(await self._evolve(parent, method, generate)))
            if isinstance(made := tried[-1].made, Record):
                parent = made
        return tried

    async def _evolve(self, parent: Record, method: str, generate: Generate) -> Record | Discarded:
        given = parent.prompt[-1].content
        reply = await self._ask(render(f"{self.name}/evolve", method=method, instruction=given), generate)
        found = sections(reply.text, ["Final instruction"])
        if reply.cut or found is None:
            what = "cut" if reply.cut else "no_final_instruction"
            return Discarded(evolution(parent, self.name, reply.text, [reply]), Drop(f"auto_evol:{what}"))
        child = evolution(parent, self.name, found[0], [reply])
        if found[0].split() == given.split():
            return Discarded(child, Drop("auto_evol:copy"))
        answer = await self._ask(child.prompt, generate)
        child = evolution(parent, self.name, found[0], [reply, answer], answer.text)
        if answer.cut or not answer.text.strip():
            return Discarded(child, Drop("auto_evol:cut" if answer.cut else "auto_evol:empty"))
        failure = failure_of(answer.text)
        return Discarded(child, Drop(f"auto_evol:{failure}", {"answer": answer.text})) if failure else child

    async def _ask(self, prompt: str | Messages, generate: Generate) -> Completion:
        return await generate(prompt, temperature=self.temperature, max_tokens=self.max_tokens)


def failure_of(answer: str) -> str | None:
    """Which of the failures an answer shows (§3.2); None for a sound one. The instruction is not looked at."""
    return next((name for name, pattern in FAILURES.items() if pattern.search(answer)), None)


def failure_rate(tried: Sequence[Evolved]) -> float:
    """The share of evolutions that failed; 1 where there is none."""
    return sum(t.failed for t in tried) / len(tried) if tried else 1.0


def _told(evolved: Evolved) -> dict[str, str]:
    made = evolved.made
    record = made.record if isinstance(made, Discarded) else made
    return {
        "instruction": record.prompt[-1].content,
        "verdict": made.drop.reason.partition(":")[2] if isinstance(made, Discarded) else "fine",
    }
