"""ReST-EM: a student's own samples, of which those that end in the reference's answer are kept (arXiv 2312.06585)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.answers import final_answer, same_answer
from kdaug.errors import ConfigError, shorten
from kdaug.generator import Generate
from kdaug.prompts import converse
from kdaug.record import Discarded, Drop, Json, Messages, Record, text_of
from kdaug.samples import answered, sampled
from kdaug.teacher import Completion


@dataclass(frozen=True)
class RestEM:
    """Samples the student several times for one prompt, and keeps what ends in the answer of the prompt's completion:
    the E-step of ReST-EM (arXiv 2312.06585, §3), whose M-step, training the base model, is the loop's.

    A kept sample is a completion record of the plain prompt; different texts only, at most `max_kept` a prompt, so that
    easy prompts do not crowd out the others. `form` names the template that asks for a reasoned answer (`solve`, or one
    of yours); with an empty one the prompt is asked as it is. With `verify: false` nothing is checked, and what comes
    out is what a baseline trains on.

    A sample that was cut, is empty or repeats an earlier one is discarded before anything else.
    """

    samples: int = 32  # paper, §4: 32 a problem for MATH (64 for APPS)
    max_kept: int = 10  # paper, §3: at most 10 solutions a problem
    form: str = "solve"
    verify: bool = True
    temperature: float = 0.7  # paper, §4
    top_p: float = 1.0
    max_tokens: int = 1024

    name: ClassVar[str] = "rest_em"
    roles: ClassVar[tuple[str, ...]] = ("student",)

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_kept < 1:
            raise ConfigError("rest_em: samples and max_kept are at least 1")

    @property
    def renders(self) -> tuple[str, ...]:
        return (f"{self.name}/{self.form}",) if self.form else ()

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if self.verify and record.completion is None:
            return [Discarded(record, Drop(f"{self.name}:no_reference"))]
        prompt = record.prompt
        if self.form:
            prompt = (*prompt[:-1], *converse(f"{self.name}/{self.form}", prompt=prompt[-1].content))
        usable, turned_down = await sampled(
            record, [self._ask(prompt, generate) for _ in range(self.samples)], by=self.name
        )
        return [*self._verified(record, usable), *turned_down]

    def _verified(self, record: Record, usable: list[Completion]) -> list[Record | Discarded]:
        """Every sample, with what its answer says of it."""
        reference = text_of(record.completion)
        made: list[Record | Discarded] = []
        kept = 0
        for reply in usable:
            sample = answered(record, reply, by=self.name)
            if self.verify and not same_answer(reply.text, reference):
                evidence: dict[str, Json] = {
                    "answer": shorten(final_answer(reply.text)),
                    "reference": final_answer(reference),
                }
                made.append(Discarded(sample, Drop(f"{self.name}:wrong", evidence)))
            elif kept == self.max_kept:
                made.append(Discarded(sample, Drop(f"{self.name}:surplus", {"max_kept": self.max_kept})))
            else:
                kept += 1
                made.append(sample)
        return made

    async def _ask(self, prompt: Messages, generate: Generate) -> Completion:
        return await generate(
            prompt, role="student", temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens
        )
