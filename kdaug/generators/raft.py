"""RAFT: questions of a passage, to be answered among distractors (arXiv 2403.10131, authors' code)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate, settled
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user
from kdaug.samples import list_items
from kdaug.teacher import Completion

_QUOTE = re.compile(r"##begin_quote##(.*?)##end_quote##", re.DOTALL)
ANSWER = "<ANSWER>:"


@dataclass(frozen=True)
class Raft:
    """Asks for `questions` about the first parent, the oracle, and answers each from it alone, with quotes; the other
    parents are distractors (source `with_others`, or `chunks` with `others`).

    The context is the oracle and `distractors` others, shuffled. With probability 1 - `oracle_share` another passage
    stands in the oracle's place while the answer stays: that teaches to remember. `meta.oracle` is the oracle's place,
    or null.

    An answer is discarded where it has not exactly one `<ANSWER>:` (`raft:answer_marker`), quotes nothing
    (`raft:no_quote`), quotes what does not stand in the oracle (`raft:quote`), or where a distractor holds a quote too
    (`raft:distractor`). Questions beyond those asked for are `raft:surplus`, the last one of a list that was cut is
    `raft:cut`, one without a letter `raft:no_letter`. Raises ParseError("list") where there is no question.
    """

    questions: int = 5  # authors' code
    distractors: int = 3  # authors' code; their README has 4
    oracle_share: float = 0.8  # authors' function; their command line has 1.0
    temperature: float = 0.0  # authors' code
    max_tokens: int = 512  # authors' code

    name: ClassVar[str] = "raft"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.questions < 1 or self.distractors < 0 or not 0 <= self.oracle_share <= 1:
            raise ConfigError("raft: questions at least 1, distractors at least 0, oracle_share from 0 to 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        oracle, *others = parents
        if len({text_of(parent.prompt) for parent in parents}) < self.distractors + 2:
            raise ConfigError(
                f"raft: {self.distractors} distractors and one in the oracle's place need as many other passages: "
                f"write source: {{with_others: {{count: {self.distractors + 1}}}}} for passages, or {{chunks: {{size: "
                f"512, least: 100, others: {self.distractors + 1}}}}} for documents to be cut, and give more seeds"
            )
        passage = text_of(oracle.prompt)
        asked = render("raft/questions", passage=passage, count=self.questions)
        told = await generate(asked, temperature=self.temperature, max_tokens=max(512, 25 * self.questions))
        found = [
            (item, flaw if re.search(r"[^\W\d_]", item) else "no_letter")
            for item, flaw in list_items(told, self.questions)
        ]
        questions = [question for question, flaw in found if not flaw]
        if not questions:
            raise ParseError("list", told.text)
        answers = await settled([self._answer(passage, question, generate) for question in questions])
        made = [
            self._item(oracle, others, question, told, answer, rng)
            for question, answer in zip(questions, answers, strict=True)
        ]
        return [*made, *(_unanswered(oracle, question, told, flaw) for question, flaw in found if flaw)]

    async def _answer(self, passage: str, question: str, generate: Generate) -> Completion:
        asked = render("raft/answer", passage=passage, question=question)
        return await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)

    def _item(
        self,
        oracle: Record,
        others: Sequence[Record],
        question: str,
        told: Completion,
        answer: Completion | Exception,
        rng: Random,
    ) -> Record | Discarded:
        shown = list(others[: self.distractors])
        shown.append(oracle if rng.random() < self.oracle_share else others[self.distractors])
        rng.shuffle(shown)
        place = shown.index(oracle) if oracle in shown else None
        passages = [text_of(record.prompt) for record in shown]
        child = oracle.child(
            *(record for record in shown if record is not oracle),
            by=self.name,
            replies=[told, *([answer] if isinstance(answer, Completion) else [])],
            prompt=user(render("raft/context", passages=passages, question=question)),
            completion=assistant(answer.text.strip()) if isinstance(answer, Completion) else None,
            rejected=None,
            label=None,
            meta={**oracle.meta, "oracle": place},
        )
        if not isinstance(answer, Completion):
            return Discarded(child, Drop(getattr(answer, "reason", "raft:failed"), {"error": str(answer)}))
        drop = self._flaw(answer, text_of(oracle.prompt), [text_of(other.prompt) for other in others])
        return Discarded(child, drop) if drop else child

    def _flaw(self, answer: Completion, oracle: str, others: Sequence[str]) -> Drop | None:
        if answer.cut:
            return Drop("raft:cut")
        if answer.text.count(ANSWER) != 1 or not answer.text.partition(ANSWER)[2].strip():
            return Drop("raft:answer_marker", {"markers": answer.text.count(ANSWER)})
        quotes = [plain for quote in _QUOTE.findall(answer.text) if (plain := " ".join(quote.split()))]
        if not quotes:
            return Drop("raft:no_quote")
        for quote in quotes:
            if quote not in " ".join(oracle.split()):
                return Drop("raft:quote", {"quote": quote})
        held = next((q for q in quotes if any(q in " ".join(other.split()) for other in others)), None)
        return Drop("raft:distractor", {"quote": held}) if held else None


def _unanswered(oracle: Record, question: str, told: Completion, flaw: str) -> Discarded:
    child = oracle.child(by="raft", replies=[told], prompt=user(question), completion=None, rejected=None, label=None)
    return Discarded(child, Drop(f"raft:{flaw}"))
