"""RLCD: a preference of two answers to one prompt under contrasting descriptions (arXiv 2307.12950)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar, Literal, NamedTuple

from kdaug.erasure import PromptEraser
from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.pairs import PairBuilder, preference
from kdaug.prompts import listed, render
from kdaug.record import Discarded, Drop, Messages, Record
from kdaug.samples import answered
from kdaug.teacher import Completion

_HUMAN = re.compile(r"^\W*(?:human|user)\b[^:\n]{0,80}:", re.IGNORECASE | re.MULTILINE)
_ASSISTANT = re.compile(r"\A\W*assistant\b[^:\n]{0,120}:\s*", re.IGNORECASE)


class Affixes(NamedTuple):
    """What a good answer is called and what its opposite is: two of one index, never mixed."""

    positive: str
    negative: str


@dataclass(frozen=True)
class Rlcd:
    """Answers a conversation twice, under a description of a good answer and of its opposite; the first answer is
    chosen, always, without any judge (§3). The record's prompt is the plain conversation.

    A pair of affixes is drawn from `templates/prompts/rlcd/affixes.j2` (`kind | good | bad` a line). It stands in
    brackets beside the last turn of the assistant; earlier turns of the assistant have the affix of the opposite
    polarity. An answer ends before the next turn of the human; one that is empty or was cut is asked for again, up to
    `tries` times. Both answers the same (`rlcd:identical`) or words of an affix in one (`rlcd:leak`) make no pair.

    To label the pair anew by a judge's probabilities, let the generator `rlaif` follow.
    """

    kind: Literal["harmless", "helpful"] = "harmless"
    tries: int = 5  # authors' code
    temperature: float = 1.0  # authors' code
    max_tokens: int = 300  # authors' code
    role: str = "student"

    name: ClassVar[str] = "rlcd"

    def __post_init__(self) -> None:
        if self.kind not in ("harmless", "helpful") or self.tries < 1:
            raise ConfigError('rlcd: kind is "harmless" or "helpful", tries at least 1')

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        affixes = rng.choice(pairs_of(self.kind))
        sides: list[Completion] = []
        spent: list[Completion] = []
        for positive in (True, False):
            asked = render(f"{self.name}/continue", transcript=transcript(record.prompt, affixes, positive=positive))
            reply, drop = await self._side(asked, generate, spent)
            if drop:
                return [Discarded(answered(record, reply, by=self.name, replies=spent), drop)]
            sides.append(reply)
        good, bad = sides
        pair = preference(record, good, bad, by=self.name, replies=spent)
        if flaw := PairBuilder().flaw(good.text, bad.text):
            return [Discarded(pair, Drop(f"rlcd:{flaw}"))]
        drop = PromptEraser(affixes._asdict()).drop(self.name, pair, given=record.prompt)
        return [Discarded(pair, drop) if drop else pair]

    async def _side(self, asked: str, generate: Generate, spent: list[Completion]) -> tuple[Completion, Drop | None]:
        """The answer of one side, or why there is none after so many tries."""
        for _ in range(self.tries):
            reply = await generate(asked, role=self.role, temperature=self.temperature, max_tokens=self.max_tokens)
            spent.append(reply)
            text, whole = turn_alone(reply)
            if whole:
                return replace(reply, text=text), None
        return reply, Drop("rlcd:no_turn", {"tries": self.tries})


def pairs_of(kind: str) -> list[Affixes]:
    """The affixes of a kind. Raises ConfigError for a line without a bad one, and where there is none."""
    found = []
    for name, text in listed("rlcd/affixes"):
        good, bar, bad = text.partition("|")
        if not bar or not good.strip() or not bad.strip():
            raise ConfigError("template prompts/rlcd/affixes.j2: expected lines of `kind | good | bad`")
        if name == kind:
            found.append(Affixes(good.strip(), bad.strip()))
    if not found:
        raise ConfigError(f"template prompts/rlcd/affixes.j2 has no line of the kind {kind}")
    return found


def transcript(prompt: Messages, affixes: Affixes, *, positive: bool) -> str:
    """The conversation with the affix of this side beside the turn to come, the other one beside those before."""
    own, other = (affixes.positive, affixes.negative) if positive else (affixes.negative, affixes.positive)
    lines = []
    for message in prompt:
        if message.role == "assistant":
            lines.append(f"Assistant ({other}): {message.content}")
        else:
            lines.append(f"{'Human: ' if message.role == 'user' else ''}{message.content}")
    return "\n\n".join([*lines, f"Assistant ({own}):"])


def turn_alone(reply: Completion) -> tuple[str, bool]:
    """A turn without the assistant's name and what comes after it, and whether it is whole: where the human speaks
    again it is, even in a reply that was cut."""
    text = _ASSISTANT.sub("", reply.text)
    after = _HUMAN.search(text)
    text = (text[: after.start()] if after else text).strip()
    return text, bool(text) and (after is not None or not reply.cut)
