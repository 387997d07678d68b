"""Orca: explanations that a system message asks for (arXiv 2306.02707)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.prompts import listed
from kdaug.record import Discarded, Record, system
from kdaug.samples import answered, unusable

# "(A) …", "b. …" or "- option" under "Options:": two of them in a row are a choice.
_OPTIONS = re.compile(r"(?:^[ \t]*\(?[A-H][.):][ \t]+\S.*\n+){2,}|^\W*options?:[ \t]*\n\s*\S", re.M | re.I)


@dataclass(frozen=True)
class Orca:
    """Answers a task under one of 16 system messages, which is part of the record: the student learns to explain as it
    is told.

    The messages are `templates/prompts/orca/messages.j2`, a line each: for whom, and its text (none: no system
    message). `any` is for every task, `choice` for multiple choice alone, another word for records of that
    `meta["collection"]`. A system message that the record had gives way.

    With `share`, so many of the tasks are also answered by the role `senior` under the same message: what the second
    stage of progressive learning trains on is then a subset of the first one's queries (§3.2).

    Answers that were cut or are empty are discarded (`orca:cut`, `orca:empty`).
    """

    share: float = 0.0  # paper: 1M of the 5M queries, 0.2
    senior: str = "senior"
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 2048

    name: ClassVar[str] = "orca"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"orca: share is {self.share:g}; it is a share of the tasks, from 0 to 1")

    @property
    def roles(self) -> tuple[str, ...]:
        return ("teacher", self.senior) if self.share else ("teacher",)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        message = rng.choice(eligible(record))
        task = tuple(m for m in record.prompt if m.role != "system")
        prompt = (*(system(message) if message else ()), *task)
        roles = ["teacher", *([self.senior] if rng.random() < self.share else [])]
        made: list[Record | Discarded] = []
        for role in roles:
            reply = await generate(
                prompt, role=role, temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens
            )
            by = self.name if role == "teacher" else f"{self.name}/{role}"
            child = answered(record, reply, by=by, prompt=prompt)
            drop = unusable(reply, self.name)
            made.append(Discarded(child, drop) if drop else child)
        return made


def eligible(record: Record) -> list[str]:
    """The system messages that a record may get, in the order of the list."""
    kinds = {"any", str(record.meta.get("collection", ""))}
    if is_multiple_choice("\n".join(m.content for m in record.prompt)):
        kinds.add("choice")
    return [text for kind, text in listed("orca/messages") if kind in kinds]


def is_multiple_choice(text: str) -> bool:
    """Whether a task gives options to choose from: two lettered lines in a row, or a list of "Options:"."""
    return _OPTIONS.search(text + "\n") is not None
