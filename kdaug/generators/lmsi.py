"""LMSI: a model learns from its own chains of thought that its majority agrees with (arXiv 2210.11610)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.answers import ballot, final_answer
from kdaug.errors import ConfigError, shorten
from kdaug.generator import Generate
from kdaug.prompts import converse, render
from kdaug.record import Discarded, Drop, Messages, Record, assistant, user
from kdaug.samples import answered, sampled
from kdaug.teacher import Completion
from kdaug.voting import Vote, majority

FORMATS = ("few_shot_chain", "few_shot_direct", "zero_shot_chain", "zero_shot_direct")


@dataclass(frozen=True)
class Lmsi:
    """Samples chains of thought, takes the answer of the majority for right, and keeps every chain that reaches it, in
    four formats: with exemplars or without, as a chain or as the answer alone (§3).

    No labels are needed. `scores["confidence"]` is the share of all samples that agree; by default also unsure
    questions are kept (`min_confidence`, `lmsi:unsure`). A chain without an answer marker is no vote
    (`lmsi:no_answer`); one with another answer is discarded (`lmsi:outvoted`). As the paper drops no question, of
    equally frequent answers the one seen first wins; a `min_confidence` above 0.5 rules that out.
    """

    samples: int = 32  # paper, §3.1; with 15 nearly all of the gain
    min_confidence: float = 0.0
    formats: tuple[str, ...] = FORMATS
    temperature: float = 0.7  # paper, §4
    max_tokens: int = 512
    role: str = "student"

    name: ClassVar[str] = "lmsi"

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 <= self.min_confidence <= 1:
            raise ConfigError("lmsi: samples is at least 1, min_confidence from 0 to 1")
        if not self.formats or set(self.formats) - set(FORMATS):
            raise ConfigError(f"lmsi: formats are some of {', '.join(FORMATS)}")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        asked = self._shown(record, direct=False, form=True)
        calls = [
            generate(asked, role=self.role, temperature=self.temperature, max_tokens=self.max_tokens)
            for _ in range(self.samples)
        ]
        chains, made = await sampled(record, calls, by=self.name, distinct=False)
        ballots = [ballot(chain.text) for chain in chains]
        vote = majority([*ballots, *[None] * len(made)])
        out: list[Record | Discarded] = [*made]
        for place, chain in enumerate(chains):
            if drop := self._drop(place, ballots[place], vote):
                out.append(Discarded(answered(record, chain, by=self.name), drop))
            elif vote is not None:
                out += [
                    self._formatted(record, chain, name).scored(confidence=vote.confidence) for name in self.formats
                ]
        return out

    def _drop(self, place: int, answer: str | None, vote: Vote[str] | None) -> Drop | None:
        if answer is None or vote is None:
            return Drop("lmsi:no_answer")
        if place not in vote.voters:
            return Drop("lmsi:outvoted", {"answer": shorten(answer), "majority": shorten(vote.winner)})
        if vote.confidence < self.min_confidence:
            return Drop("lmsi:unsure", {"confidence": vote.confidence, "majority": shorten(vote.winner)})
        return None

    def _formatted(self, record: Record, chain: Completion, name: str) -> Record:
        direct = name.endswith("direct")
        prompt = record.prompt
        if name.startswith("few_shot"):
            prompt = self._shown(record, direct=direct, form=False)
        elif not direct:
            prompt = (*prompt[:-1], *user(render(f"{self.name}/step", prompt=prompt[-1].content)))
        said = final_answer(chain.text) if direct else chain.text
        return answered(record, chain, by=f"{self.name}/{name}", prompt=prompt, completion=assistant(said.strip()))

    def _shown(self, record: Record, *, direct: bool, form: bool) -> Messages:
        """The question after the exemplars, which stand as turns of their own."""
        shown = converse(f"{self.name}/chain", prompt=record.prompt[-1].content, direct=direct, form=form)
        first = record.prompt[:1] if record.prompt[0].role == "system" else ()
        return (*first, *shown[:-1], *(m for m in record.prompt[len(first) : -1]), shown[-1])
