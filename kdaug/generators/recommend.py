"""Recommendation dialogues: an assistant finds, in talk with a person, what of given items that person wants (after
iEvaLM, arXiv 2305.13112)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from kdaug.dialogue import dialogue_record, role_slip
from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Messages, Record, assistant, text_of, user
from kdaug.teacher import Completion

NOTHING_YET = "(none yet)"


@dataclass(frozen=True)
class Recommend:
    """Plays a dialogue of at most `rounds` rounds. A seed's prompt is what the person liked so far, its completion the
    item that they will like, `meta.candidates` the items that may be recommended.

    The person knows the item and may not name it; the assistant knows history and candidates, asks, and recommends one
    item at a time, in code held to the candidates. It ends when the right one is recommended.

    Discarded: `recommend:no_candidates` (or the item is not among them), `recommend:leak` (the person names the item),
    `recommend:role_slip`, `recommend:empty`, `recommend:unknown_item`, and `recommend:missed`, with the dialogue as far
    as it went.
    """

    rounds: int = 5  # paper, §4.1: at most five
    temperature: float = 0.8
    max_tokens: int = 512

    name: ClassVar[str] = "recommend"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"recommend: rounds is {self.rounds}; it must be at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        item = text_of(record.completion).strip()
        listed = record.meta.get("candidates")
        candidates = [str(one) for one in listed] if isinstance(listed, list) else []
        if not item or item not in candidates:
            return [Discarded(record, Drop("recommend:no_candidates", {"item": item}))]
        rng.shuffle(candidates)
        history, said, replies = text_of(record.prompt), (), list[Completion]()
        turns: Messages = said
        for _ in range(self.rounds):
            asked = await self._person(history, item, turns, generate)
            replies.append(asked)
            if flaw := _flaw(asked, item):
                return [self._dropped(record, turns, replies, flaw, asked.text)]
            turns = (*turns, *user(asked.text.strip()))
            reply, recommended = await self._assistant(history, candidates, turns, generate)
            replies.append(reply)
            if recommended not in (*candidates, NOTHING_YET):
                return [self._dropped(record, turns, replies, "unknown_item", recommended)]
            turns = (*turns, *assistant(_spoken(reply.parsed["text"], recommended)))
            if recommended == item:
                given = (*user(render("recommend/opening", history=history, candidates=candidates)),)
                first = (*user(f"{given[0].content}\n\n{turns[0].content}"), *turns[1:])
                return [dialogue_record(record, first, by=self.name, replies=replies, meta={})]
        return [self._dropped(record, turns, replies, "missed", item)]

    async def _person(self, history: str, item: str, turns: Messages, generate: Generate) -> Completion:
        asked = render("recommend/person", history=history, item=item, turns=turns)
        return await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)

    async def _assistant(
        self, history: str, candidates: Sequence[str], turns: Messages, generate: Generate
    ) -> tuple[Completion, str]:
        asked = render("recommend/assistant", history=history, candidates=candidates, turns=turns)
        names: dict[str, Any] = {"enum": [*candidates, NOTHING_YET]}
        fields = {"text": {"type": "string"}, "item": names}
        schema = {"type": "object", "properties": fields, "required": ["text", "item"]}
        reply = await generate(asked, schema=schema, temperature=self.temperature, max_tokens=self.max_tokens)
        found = reply.parsed
        if reply.cut or not isinstance(found, dict) or not str(found.get("text") or "").strip() or "item" not in found:
            raise ParseError("recommendation", reply.text)
        return reply, str(found["item"])

    def _dropped(
        self, record: Record, turns: Messages, replies: Sequence[Completion], flaw: str, said: str
    ) -> Discarded:
        drop = Drop(f"{self.name}:{flaw}", {"said": said})
        if not turns:
            return Discarded(record.child(by=self.name, replies=replies), drop)
        return Discarded(dialogue_record(record, turns, by=self.name, replies=replies, meta={}), drop)


def _flaw(asked: Completion, item: str) -> str | None:
    if asked.cut or not asked.text.strip():
        return "cut" if asked.cut else "empty"
    if item.casefold() in asked.text.casefold():
        return "leak"
    return "role_slip" if role_slip(asked.text) else None


def _spoken(text: str, item: str) -> str:
    """What the assistant says, with the item's name in it where it recommends one."""
    said = text.strip()
    return said if item == NOTHING_YET or item.casefold() in said.casefold() else f"{said}\n\nI recommend: {item}"
