"""A gate that asks the same question several times and keeps the answers that agree with most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kdaug.answers import denied, final_answer, same_answer
from kdaug.errors import ConfigError, shorten
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate, settled
from kdaug.record import Drop, Json, Record, text_of
from kdaug.teacher import Completion
from kdaug.voting import majority


@dataclass(frozen=True)
class Votes(Gate):
    """Asks a record's prompt `samples` times and drops the record unless its final answer is that of most samples
    (self-consistency, arXiv 2203.11171).

    Final answers are compared as `same_answer` does (numbers exactly, else the same words); a sample that fails, is cut
    or is empty votes for nobody. `scores["votes"]` is the winner's share of all samples; less than `min` is
    `votes:split`, two answers with equally many votes `votes:tie`, another answer than the winner's `votes:minority`,
    no vote at all `votes:none`. A record without an answer has only to be agreed upon. It costs `samples` calls a
    record, so it belongs in a later stage than what drops for free; the samples come from `role`.
    """

    samples: int = 5
    min: float = 0.5
    role: str = "teacher"
    temperature: float = 0.7
    max_tokens: int = 1024

    name: ClassVar[str] = "votes"

    def __post_init__(self) -> None:
        if self.samples < 2 or not 0 < self.min <= 1:
            raise ConfigError("votes: a vote needs two samples at least, and min is above 0 and at most 1")

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override] # what it asks depends on its fields
        return (self.role,)

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        calls = [
            generate(record.prompt, role=self.role, temperature=self.temperature, max_tokens=self.max_tokens)
            for _ in range(self.samples)
        ]
        said = [
            reply.text if isinstance(reply, Completion) and not reply.cut and reply.text.strip() else None
            for reply in await settled(calls)
        ]
        vote = majority(ballots(said))
        if vote is None:
            return Prepared(record, Drop("votes:none"))
        winner = said[vote.winner] or ""
        evidence: dict[str, Json] = {"share": vote.confidence, "winner": shorten(final_answer(winner))}
        drop = None
        if vote.confidence < self.min:
            drop = Drop("votes:split", {**evidence, "min": self.min})
        elif vote.tied:
            drop = Drop("votes:tie", evidence)
        elif record.completion is not None and not same_answer(text_of(record.completion), winner):
            drop = Drop("votes:minority", {**evidence, "answer": shorten(final_answer(text_of(record.completion)))})
        return Prepared(record.scored(votes=vote.confidence), drop)


def ballots(said: Sequence[str | None]) -> list[int | None]:
    """For each text the place of the first with the same final answer; None where it says only what is none."""
    told = [None if text is None or denied(text) else text for text in said]
    return [
        None if text is None else next(i for i, other in enumerate(told) if other is not None and _alike(text, other))
        for text in told
    ]


def _alike(text: str, other: str) -> bool:
    return text == other or same_answer(text, other)
