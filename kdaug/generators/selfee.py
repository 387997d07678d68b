"""SelFee: an answer, what is wrong with it, and its revisions, as one text to learn (kaistai.github.io/SelFee)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.judging import parse_choice
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Messages, Record, assistant, text_of, user
from kdaug.samples import answered, unusable
from kdaug.teacher import Completion

_HEADING = re.compile(r"^### (Answer|Feedback|Revision needed|Revision \d+):[ \t]*", re.MULTILINE)
_VERDICT_LINE = re.compile(r"\n\W*verdict\W*:[^\n]*\s*\Z", re.IGNORECASE)


class Chain(NamedTuple):
    """Answers, the first one and its revisions, and the feedback on each: as many, where the last one is accepted; one
    fewer, where a cap ended the chain."""

    answers: tuple[str, ...]
    feedback: tuple[str, ...]


@dataclass(frozen=True)
class SelFee:
    """Writes an answer (or takes the record's own), then feedback and revisions in turn until the feedback accepts the
    answer or `max_revisions` are made; the chain of all of them is the completion.

    A chain that the cap ended has no verdict at its end. A part that was cut or is empty discards the record
    (`selfee:cut`, `selfee:empty`), and so does one that holds a heading of the chain (`selfee:heading`). Raises
    ParseError("verdict") for feedback without one.
    """

    max_revisions: int = 3
    keep_answer: bool = True
    temperature: float = 0.7
    max_tokens: int = 1024

    name: ClassVar[str] = "selfee"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.max_revisions < 1:
            raise ConfigError(f"selfee: max_revisions is {self.max_revisions}; it is at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        prompt = text_of(record.prompt)
        replies: list[Completion] = []
        answers: list[str] = []
        feedback: list[str] = []

        async def say(asked: Messages, into: list[str], temperature: float) -> Discarded | None:
            reply = await generate(asked, temperature=temperature, max_tokens=self.max_tokens)
            replies.append(reply)
            drop = unusable(reply, self.name)
            if not drop and (heading := _HEADING.search(reply.text)):
                drop = Drop("selfee:heading", {"heading": heading[0].strip()})
            into.append(reply.text.strip())
            return Discarded(answered(record, reply, by=self.name, replies=replies), drop) if drop else None

        if self.keep_answer and record.completion is not None and record.rejected is None:
            answers.append(text_of(record.completion).strip())
        elif failed := await say(record.prompt, answers, self.temperature):
            return [failed]
        while len(answers) <= self.max_revisions:
            told = {"prompt": prompt, "answer": answers[-1]}
            if failed := await say(user(render(f"{self.name}/feedback", **told)), feedback, 0.0):
                return [failed]
            verdict = parse_choice(feedback[-1], ("revise", "accept"))
            feedback[-1] = _VERDICT_LINE.sub("", "\n" + feedback[-1]).strip()
            if verdict == "accept":
                break
            told["feedback"] = feedback[-1]
            if failed := await say(user(render(f"{self.name}/revise", **told)), answers, self.temperature):
                return [failed]
        chain = assistant(written(Chain(tuple(answers), tuple(feedback))))
        return [record.child(by=self.name, replies=replies, completion=chain, rejected=None, label=None)]


def written(chain: Chain) -> str:
    """The chain as a text: what `read_chain` reads."""
    parts = [f"### Answer:\n{chain.answers[0]}"]
    for number, said in enumerate(chain.feedback, 1):
        revised = number < len(chain.answers)
        parts.append(f"### Feedback:\n{said}\n\n### Revision needed: {'yes' if revised else 'no'}")
        if revised:
            parts.append(f"### Revision {number}:\n{chain.answers[number]}")
    return "\n\n".join(parts)


def read_chain(text: str) -> Chain:
    """The answers and the feedback of a chain. Raises ParseError("chain") where its parts do not follow one another as
    they must: an answer, then feedback, verdict and revision in turn; only the last verdict is "no", and ends it."""
    pieces = [piece.strip() for piece in _HEADING.split(text)[1:]]
    parts = list(zip(pieces[::2], pieces[1::2], strict=True))
    answers, feedback = [said for name, said in parts[:1] if name == "Answer"], list[str]()
    rest = parts[1:]
    for number in range(1, len(rest) // 3 + 2):
        step, rest = rest[:3], rest[3:]
        if not step:
            break
        names = [name for name, _ in step]
        if names == ["Feedback", "Revision needed", f"Revision {number}"] and step[1][1] == "yes":
            feedback.append(step[0][1])
            answers.append(step[2][1])
        elif names == ["Feedback", "Revision needed"] and step[1][1] == "no" and not rest:
            feedback.append(step[0][1])
        else:
            raise ParseError("chain", text)
    if not answers or not all([*answers, *feedback]):
        raise ParseError("chain", text)
    return Chain(tuple(answers), tuple(feedback))


def forced(text: str) -> str:
    """A chain with its last verdict overruled, so that a model that goes on from it revises once more (SelFee makes at
    least three revisions so, at inference). Only the verdict changes."""
    return re.sub(r"^(### Revision needed:[ \t]*)no[ \t]*(?=\s*\Z)", r"\1yes", text, flags=re.MULTILINE)
