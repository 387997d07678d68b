"""PERsD: a teacher mends the programs that a student got wrong (Personalised Distillation, arXiv 2310.18628)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar, Literal

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.programs import Trial, code_block, record_tests, try_program
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user
from kdaug.samples import answered, unusable
from kdaug.sandbox import Limits, Sandbox
from kdaug.teacher import Completion

BAD_TESTS = ("tests", "no_tests")


@dataclass(frozen=True)
class Persd:
    """The student attempts a task and its tests are run; where they fail, the teacher mends that attempt, told what
    went wrong, and what passes is kept.

    The tests are in `meta[tests]`. `format` says what the student learns: `combined` (the task, the mended program),
    `refine` (task, wrong attempt and error, the mended program), or `both`, which the paper calls PERsD. An attempt
    that passes makes no record (`persd:solved`), nor does a program that still fails in any way, a time-out too
    (`persd:still_wrong`). `scores["closeness"]`: how much of the attempt is in the mended program, from 0 to 1.

    The paper's sampling is not known; this one is ours.
    """

    format: Literal["combined", "refine", "both"] = "both"
    tests: str = "tests"
    temperature: float = 0.7
    max_tokens: int = 1024
    cpu: int = 5
    memory: int = 512
    sandbox: Sandbox = field(init=False, repr=False, compare=False)

    name: ClassVar[str] = "persd"
    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    needs: ClassVar[tuple[str, ...]] = ("sandbox",)

    def __post_init__(self) -> None:
        if self.format not in ("combined", "refine", "both"):
            raise ConfigError(f'persd: format must be "combined", "refine" or "both", not {self.format!r}')
        object.__setattr__(self, "sandbox", Sandbox(Limits(cpu=self.cpu, memory=self.memory)))

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        tests = record_tests(record, self.tests)
        if not tests:
            return [Discarded(record, Drop("persd:no_tests"))]
        attempt = await generate(
            record.prompt, role="student", temperature=self.temperature, max_tokens=self.max_tokens
        )
        attempted = answered(record, attempt, by=self.name)
        if drop := unusable(attempt, self.name, text="attempt"):
            return [Discarded(attempted, drop)]
        trial = await try_program(code_block(attempt.text), tests, self.sandbox)
        if trial.wrong is None:
            return [Discarded(attempted, Drop("persd:solved", trial.evidence))]
        if trial.wrong in BAD_TESTS:
            return [Discarded(attempted, Drop("persd:bad_tests", trial.evidence))]
        return await self._mended(record, attempt, trial, tests, generate)

    async def _mended(
        self, record: Record, attempt: Completion, trial: Trial, tests: str, generate: Generate
    ) -> Sequence[Record | Discarded]:
        program = code_block(attempt.text)
        asked = render(f"{self.name}/refine", task=text_of(record.prompt), attempt=program, error=trial.error)
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        mended = code_block(reply.text)
        made = self._records(record, asked, mended, [attempt, reply], _closeness(program, mended))
        if drop := unusable(reply, self.name, text="refinement"):
            return [Discarded(made[0], drop)]
        again = await try_program(mended, tests, self.sandbox)
        if again.wrong is not None:
            return [Discarded(made[0], Drop("persd:still_wrong", {"how": again.wrong, **again.evidence}))]
        return made

    def _records(
        self, record: Record, asked: str, mended: str, replies: Sequence[Completion], closeness: float
    ) -> list[Record]:
        """The block alone is the answer: what the teacher says around it speaks of the attempt."""
        answer = assistant(f"```python\n{mended}```")
        prompts = {"combined": record.prompt, "refine": user(asked)}
        return [
            record.child(
                by=f"{self.name}/{form}", replies=replies, prompt=prompt, completion=answer, rejected=None, label=None
            ).scored(closeness=closeness)
            for form, prompt in prompts.items()
            if self.format in (form, "both")
        ]


def _closeness(attempt: str, mended: str) -> float:
    from rapidfuzz.distance import LCSseq

    return round(LCSseq.normalized_similarity(attempt.split(), mended.split()), 4)
