"""Self-knowledge: a student's own samples, sorted by its own judgement or by a reference answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import ClassVar, Literal

from kdaug.answers import final_answer, same_answer
from kdaug.errors import ConfigError, shorten
from kdaug.generator import Generate, settled
from kdaug.judging import Verdict, grade
from kdaug.pairs import PairBuilder, paired
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Json, Messages, Record, text_of, user
from kdaug.samples import answered, sampled
from kdaug.teacher import Completion


@dataclass(frozen=True)
class SelfKnowledge:
    """Samples the student several times for one prompt and keeps what is good, without any other model.

    `mode="judge"` (Self-Rewarding Language Models, arXiv 2401.10020): the student marks each sample from 0 to 5 by an
    additive rubric, several times over; failed judgements are left out of the mean. Best against worst is a preference
    with the scores `self_judge` (the best mean) and `margin`; of equal ones the first is taken; all equal is no pair.

    `mode="verify"` (STaR, arXiv 2203.14465; ReST-EM, arXiv 2312.06585): the prompt's completion is the reference. The
    student is asked to reason and to end with its answer; what ends in the reference's answer is kept as a completion
    record of the plain prompt, different texts only, at most `max_kept` of them.

    A sample that was cut, is empty or repeats an earlier one is discarded before anything is spent on it.
    """

    samples: int = 4  # Self-Rewarding, §2.2: N = 4 (ReST-EM: 32 for MATH, 64 for APPS)
    mode: Literal["judge", "verify"] = "judge"
    judgements: int = 3  # Self-Rewarding: the mean of 3
    max_kept: int = 10  # ReST-EM: at most 10 correct solutions a problem
    temperature: float = 0.7  # both papers
    top_p: float = 0.9  # Self-Rewarding
    max_tokens: int = 1024

    name: ClassVar[str] = "self_knowledge"
    roles: ClassVar[tuple[str, ...]] = ("student",)

    def __post_init__(self) -> None:
        if self.mode not in ("judge", "verify"):
            raise ConfigError(f'self_knowledge: mode must be "judge" or "verify", not {self.mode!r}')
        if self.samples < (2 if self.mode == "judge" else 1) or self.judgements < 1 or self.max_kept < 1:
            raise ConfigError(
                "self_knowledge: a pair needs two samples, a mark one judgement, and max_kept is positive"
            )

    @property
    def judges(self) -> tuple[str, ...]:
        """The roles whose judgement decides what is kept."""
        return ("student",) if self.mode == "judge" else ()

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if self.mode == "verify" and record.completion is None:
            return [Discarded(record, Drop("self_knowledge:no_reference"))]
        usable, turned_down = await self._sample(record, generate)
        if self.mode == "verify":
            return [*self._verified(record, usable), *turned_down]
        return [*await self._best_and_worst(record, usable, generate, rng), *turned_down]

    async def _sample(self, record: Record, generate: Generate) -> tuple[list[Completion], list[Discarded]]:
        prompt = record.prompt
        if self.mode == "verify":
            prompt = (*prompt[:-1], *user(render(f"{self.name}/solve", prompt=prompt[-1].content)))
        return await sampled(record, [self._ask(prompt, generate) for _ in range(self.samples)], by=self.name)

    async def _best_and_worst(
        self, record: Record, usable: list[Completion], generate: Generate, rng: Random
    ) -> list[Record | Discarded]:
        """The pair, and samples that nothing could be paired with."""
        samples = [answered(record, reply, by=self.name) for reply in usable]
        verdicts = await settled([self._judge(sample, generate) for sample in samples for _ in range(self.judgements)])
        made: list[Record | Discarded] = []
        marked: list[tuple[Completion, float]] = []
        for i, (sample, reply) in enumerate(zip(samples, usable, strict=True)):
            own = verdicts[i * self.judgements : (i + 1) * self.judgements]
            scores = [verdict.score for verdict in own if isinstance(verdict, Verdict)]
            if scores:
                marked.append((reply, fmean(scores)))
            else:
                failures: list[Json] = [verdict.reason for verdict in own if not isinstance(verdict, Verdict)]
                made.append(Discarded(sample, Drop("self_knowledge:unscored", {"failures": failures})))
        replies, means = [reply for reply, _ in marked], [mean for _, mean in marked]
        pairs = paired(record, replies, means, PairBuilder(), rng, by=self.name, score="self_judge")
        return [*made, *pairs]

    def _verified(self, record: Record, usable: list[Completion]) -> list[Record | Discarded]:
        """Every sample, with what its answer says of it."""
        reference = text_of(record.completion)
        made: list[Record | Discarded] = []
        kept = 0
        for reply in usable:
            sample = answered(record, reply, by=self.name)
            if not same_answer(reply.text, reference):
                evidence: dict[str, Json] = {
                    "answer": shorten(final_answer(reply.text)),
                    "reference": final_answer(reference),
                }
                made.append(Discarded(sample, Drop("self_knowledge:wrong", evidence)))
            elif kept == self.max_kept:
                made.append(Discarded(sample, Drop("self_knowledge:surplus", {"max_kept": self.max_kept})))
            else:
                kept += 1
                made.append(sample)
        return made

    async def _ask(self, prompt: Messages, generate: Generate) -> Completion:
        return await generate(
            prompt, role="student", temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens
        )

    async def _judge(self, sample: Record, generate: Generate) -> Verdict:
        return await grade(
            sample,
            generate,
            role="student",
            template=f"{self.name}/additive",
            low=0,
            high=5,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
        )
