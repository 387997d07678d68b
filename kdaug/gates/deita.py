"""DEITA's two scores of a conversation: how complex its requests are, and how good the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError, TeacherError
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate, settled
from kdaug.judging import Verdict, mark
from kdaug.prompts import converse
from kdaug.record import Drop, Message, Record, text_of

LOW, HIGH = 1, 6  # DEITA's scale: six variants of a task were ranked (arXiv 2312.15685, §2.2)


@dataclass(frozen=True)
class DeitaScores(Gate):
    """Scores complexity and quality from 1 to 6, each by its own question (DEITA, arXiv 2312.15685, §2.2 and 2.3).

    Each mark is an expected value where the judge gives the probabilities of the marks. `scores["complexity"]` and
    `scores["quality"]` are means over the turns, `scores["deita"]` is the sum over the turns of complexity times
    quality, which DEITA selects by: 1 to 36 for one turn. Drops what is below `min` (None: nothing), and
    `deita:no_answer`. A reply without a mark drops the record (`parse:score`): it is never a mark in the middle.

    The paper trained two scorers; here `judges` names the role that is asked, and any model may play it. A record
    costs two calls a turn.
    """

    min: float | None = None
    judge: str = "judge"
    max_tokens: int = 1024

    name: ClassVar[str] = "deita"

    def __post_init__(self) -> None:
        if self.min is not None and self.min < LOW:
            raise ConfigError(f"deita: min {self.min:g} is below the least score, {LOW}")

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override] # what it asks depends on its fields
        return (self.judge,)

    @property
    def judges(self) -> tuple[str, ...]:
        """The roles whose judgement decides what is kept."""
        return (self.judge,)

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        spoken = turns([*record.prompt, *(record.completion or ())])
        if not spoken or record.completion is None:
            return Prepared(record)
        asked = [
            self._ask(kind, request, answer, generate)
            for request, answer in spoken
            for kind in ("complexity", "quality")
        ]
        marks = [_score(verdict) for verdict in await settled(asked)]
        complexity, quality = marks[::2], marks[1::2]
        evol = sum(c * q for c, q in zip(complexity, quality, strict=True))
        scores = {"complexity": fmean(complexity), "quality": fmean(quality), "deita": evol}
        return Prepared(record.scored(**scores), scores)

    def decide(self, prepared: Prepared) -> Drop | None:
        if prepared.evidence is None:
            return Drop("deita:no_answer")
        if self.min is None or prepared.evidence["deita"] >= self.min:
            return None
        return Drop("deita:low", {**prepared.evidence, "min": self.min})

    async def _ask(self, kind: str, request: str, answer: str, generate: Generate) -> Verdict:
        given = {"prompt": request, "low": LOW, "high": HIGH} | ({"response": answer} if kind == "quality" else {})
        question = converse(f"{self.name}/{kind}", **given)
        return await mark(question, generate, role=self.judge, low=LOW, high=HIGH, max_tokens=self.max_tokens)


def turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Each request with its answer, as text: what the user says up to the assistant's words, and these. A first one
    has the system's words too; tool calls and their results belong to the answer."""
    found: list[tuple[list[Message], list[Message]]] = []
    for message in messages:
        asks = message.role in ("system", "user")
        if asks and (not found or found[-1][1]):
            found.append(([], []))
        if found:
            found[-1][0 if asks else 1].append(message)
    return [(text_of(request), text_of(answer)) for request, answer in found if answer]


def _score(verdict: Verdict | TeacherError | ParseError) -> float:
    if not isinstance(verdict, Verdict):
        raise verdict
    return verdict.score
