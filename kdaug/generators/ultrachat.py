"""UltraChat: two models, one of which plays the user, hold a dialogue (arXiv 2305.14233)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

from kdaug.dialogue import count_rounds, dialogue_record, talk
from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Messages, Record, text_of
from kdaug.teacher import Completion

_TAG = re.compile(r"^\W*(?:user|human|me)\W*:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class UltraChat:
    """Goes on from an opening line for a random number of rounds, with the user and the assistant as separate calls.

    The user's model is told to speak as a user; where it slips into the assistant's role, takes leave or repeats itself
    the dialogue ends before that turn. A round is a turn of each. A dialogue of fewer than `min_kept` rounds is
    discarded (`ultrachat:role_slip`, `:farewell`, `:repeat`, `:cut`, `:empty`: what ended it).

    `user_role` may be another model than the assistant's.
    """

    min_rounds: int = 3  # 3 to 7 for questions about the world; 2 to 4 for writing and given material
    max_rounds: int = 7
    min_kept: int = 2
    temperature: float = 0.7
    max_tokens: int = 1024
    user_role: str = "teacher"

    name: ClassVar[str] = "ultrachat"

    def __post_init__(self) -> None:
        if not 1 <= self.min_rounds <= self.max_rounds or not 1 <= self.min_kept <= self.min_rounds:
            raise ConfigError("ultrachat: 1 <= min_kept <= min_rounds <= max_rounds does not hold")

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("teacher", self.user_role)))

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents

        async def ask(said: Messages) -> Completion:
            asked = render(f"{self.name}/user", transcript=text_of(tuple(m for m in said if m.role != "system")))
            return untagged(
                await generate(asked, role=self.user_role, temperature=self.temperature, max_tokens=self.max_tokens)
            )

        async def answer(said: Messages) -> Completion:
            return await generate(said, temperature=self.temperature, max_tokens=self.max_tokens)

        rounds = rng.randint(self.min_rounds, self.max_rounds)
        said = await talk(record.prompt, ask, answer, rounds=rounds)
        evidence = Drop(f"{self.name}:{said.ended}", {"rounds": count_rounds(said.messages), "text": said.last})
        if not said.replies:
            return [Discarded(record, evidence)]
        child = dialogue_record(record, said.messages, by=self.name, replies=said.replies)
        return [child if count_rounds(said.messages) >= self.min_kept else Discarded(child, evidence)]


def untagged(reply: Completion) -> Completion:
    """A turn of the user without the tag that models put before it."""
    return replace(reply, text=_TAG.sub("", reply.text))
