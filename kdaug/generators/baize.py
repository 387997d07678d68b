"""Baize: a model talks with itself about a seed (self-chat, arXiv 2304.01196)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal

from kdaug.dialogue import count_rounds, dialogue_record, parse_transcript, talk
from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Messages, Record
from kdaug.teacher import Completion

USER, ASSISTANT = "[Human]", "[AI]"


@dataclass(frozen=True)
class Baize:
    """Makes a dialogue out of a seed: a question or a topic.

    `mode="transcript"` (v1): one reply holds both speakers under the tags [Human] and [AI]. Its last exchange is always
    left out, as it may be truncated; at one with a missing or a stray tag the dialogue ends.
    `mode="turns"` (v2): a call a turn; the user's is simulated and stops at the assistant's tag. The seed is the first
    turn; a slip of role, a farewell or a repetition ends the dialogue before it is said.

    Every answer is in the record's completion. Fewer than `min_rounds` rounds are discarded (`baize:short`). Raises
    ParseError("transcript") for a reply without any whole exchange.
    """

    mode: Literal["transcript", "turns"] = "transcript"
    rounds: int = 4
    min_rounds: int = 1
    temperature: float = 0.7
    max_tokens: int = 2048

    name: ClassVar[str] = "baize"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.mode not in ("transcript", "turns") or not 1 <= self.min_rounds <= self.rounds:
            raise ConfigError('baize: mode is "transcript" or "turns", and min_rounds from 1 to rounds')

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        topic = record.prompt[-1].content
        if self.mode == "turns":
            return await self._in_turns(record, topic, generate)
        asked = render(f"{self.name}/transcript", topic=topic, rounds=self.rounds + 1)
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        messages = parse_transcript(reply.text, user_tag=USER, assistant_tag=ASSISTANT)
        if not messages:
            raise ParseError("transcript", reply.text)
        child = dialogue_record(record, messages, by=f"{self.name}/transcript", replies=[reply])
        return [self._long_enough(child, messages, "transcript")]

    async def _in_turns(self, record: Record, topic: str, generate: Generate) -> Sequence[Record | Discarded]:
        async def ask(said: Messages) -> Completion:
            transcript = "\n".join(f"{USER if m.role == 'user' else ASSISTANT} {m.content}" for m in said)
            asked = render(f"{self.name}/user", topic=topic, transcript=transcript)
            return await generate(
                asked, temperature=self.temperature, max_tokens=self.max_tokens, stop=(ASSISTANT, USER)
            )

        async def answer(said: Messages) -> Completion:
            return await generate(said, temperature=self.temperature, max_tokens=self.max_tokens)

        said = await talk(record.prompt, ask, answer, rounds=self.rounds)
        if not said.replies:
            return [Discarded(record, Drop(f"baize:{said.ended}", {"text": said.last}))]
        child = dialogue_record(record, said.messages, by=f"{self.name}/turns", replies=said.replies)
        return [self._long_enough(child, said.messages, said.ended, said.last)]

    def _long_enough(self, child: Record, messages: Messages, ended: str, last: str = "") -> Record | Discarded:
        rounds = count_rounds(messages)
        if rounds >= self.min_rounds:
            return child
        return Discarded(child, Drop("baize:short", {"rounds": rounds, "ended": ended, "text": last}))
