"""Persona Hub: personas from texts, personas from personas, and tasks that they would set (arXiv 2406.20094)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.erasure import PromptEraser
from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.parsing import one_line
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user

HOPS = 6  # paper, §2.2: from persona to persona, up to six times
WAYS = ("read", "write", "like", "dislike")  # how a person may be close to a text; paper, §2.1
# What each kind of task must begin with, and whether the rest is a prompt or, to this prompt, the answer.
KINDS: Mapping[str, tuple[str, str]] = {
    "maths": ("Math problem:", ""),
    "logic": ("Logic problem:", ""),
    "instruction": ("User prompt:", ""),
    "knowledge": ("Title:", "Write an article that teaches something worth knowing."),
    "npc": ("Name:", "Invent a character for a game."),
}


@dataclass(frozen=True)
class Personas:
    """Names a persona for a text (who would read, write, like or dislike it), then, `hops` times, somebody close to the
    last persona: text-to-persona and persona-to-persona.

    Every persona is a record, whose prompt is its description; its parent is the text or persona that it is from. One
    of fewer than `min_words` words is discarded as `personas:short`, and ends the chain, as a cut one does. Put
    `minhash` with `shingle: 1, threshold: 0.9` behind it (the paper's; it takes a reordering for the same), and `dedup`
    at 0.9.
    """

    hops: int = 1
    min_words: int = 5
    temperature: float = 0.7
    max_tokens: int = 256

    name: ClassVar[str] = "personas"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if not 0 <= self.hops <= HOPS:
            raise ConfigError(f"personas: hops is {self.hops}; it is from 0 to {HOPS}")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (source,) = parents
        asked = render(f"{self.name}/of_text", text=text_of(source.prompt), way=rng.choice(WAYS))
        made: list[Record | Discarded] = []
        for hop in range(self.hops + 1):
            reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
            persona = one_line(reply.text).strip('"')
            record = source.child(
                by=f"{self.name}/{hop}",
                replies=[reply],
                prompt=user(persona),
                completion=None,
                rejected=None,
                label=None,
            )
            if reply.cut or len(persona.split()) < self.min_words:
                return [*made, Discarded(record, Drop(f"personas:{'cut' if reply.cut else 'short'}"))]
            made.append(record)
            source, asked = record, render(f"{self.name}/of_persona", persona=persona)
        return made


@dataclass(frozen=True)
class PersonaTask:
    """Writes one task that a persona would set, of a `kind`: maths, logic, instruction, knowledge or npc.

    The reply must begin with the field that its kind declares ("Math problem:"), which is taken off: anything else is
    no task (`parse:task`). One that repeats six words in a row of its persona is discarded as `persona_task:persona`,
    for the persona is told to the teacher alone. `examples` are shown before: each has a `text` and, for
    persona-enhanced few-shot, its `persona`. Problems and instructions are prompts, to be answered by `respond`;
    articles and characters are answers.
    """

    kind: str = "instruction"
    examples: Sequence[Mapping[str, str]] = ()
    temperature: float = 0.7  # paper
    max_tokens: int = 1024

    name: ClassVar[str] = "persona_task"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"persona_task: there is no kind {self.kind!r}; there are {', '.join(KINDS)}")
        if any("text" not in example for example in self.examples):
            raise ConfigError("persona_task: an example is {text: …} or {persona: …, text: …}")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (parent,) = parents
        persona, (prefix, request) = text_of(parent.prompt), KINDS[self.kind]
        asked = render(f"{self.name}/{self.kind}", persona=persona, examples=self.examples, prefix=prefix)
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        text = after_prefix(reply.text, prefix)
        if text is None:
            raise ParseError("task", reply.text)
        record = parent.child(
            by=f"{self.name}/{self.kind}",
            replies=[reply],
            prompt=user(request or text),
            completion=assistant(f"{prefix} {text}") if request else None,
            rejected=None,
            label=None,
        )
        if reply.cut:
            return [Discarded(record, Drop("persona_task:cut"))]
        if leak := PromptEraser({"persona": persona}).find(text):
            return [Discarded(record, Drop("persona_task:persona", {"run": leak.run}))]
        return [record]


def after_prefix(text: str, prefix: str) -> str | None:
    """What follows the field that a reply must begin with; None where it begins otherwise, or nothing follows."""
    found = re.match(rf"[\s*_#]*{re.escape(prefix.rstrip(':'))}[*_]*\s*:[*_]*", text, re.IGNORECASE)
    rest = text[found.end() :].strip() if found else ""
    return rest or None
