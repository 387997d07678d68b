"""Gorilla: instructions for documented APIs, with the call that serves each (arXiv 2305.15334, §3.1)."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import orjson

from kdaug.api_calls import calls_in, identity
from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user
from kdaug.teacher import Completion

SCHEMA = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {"instruction": {"type": "string"}, "explanation": {"type": "string"}},
                "required": ["instruction", "explanation"],
            },
        }
    },
    "required": ["items"],
}


@dataclass(frozen=True)
class Gorilla:
    """Asks for `per_api` instructions that the first parent's API serves. Its prompt says what the API does, its
    completion is the call, its `meta` the rest of its documentation; the other parents are other APIs (source
    `with_others`).

    An instruction that names the API (its function or what it loads) is `gorilla:leak`. A share of the records carries
    documentation (`with_document`), of which a share is another API's (`wrong_document`), so that a student learns to
    doubt what it is shown. Raises ParseError("instructions") where there is none.
    """

    per_api: int = 10  # paper
    with_document: float = 0.5
    wrong_document: float = 0.1
    temperature: float = 0.7
    max_tokens: int = 2048

    name: ClassVar[str] = "gorilla"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.per_api < 1 or not 0 <= self.with_document <= 1 or not 0 <= self.wrong_document <= 1:
            raise ConfigError("gorilla: per_api is at least 1, with_document and wrong_document are from 0 to 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        api, *others = parents
        call = text_of(api.completion)
        try:
            [first, *_] = calls_in(call)
        except (SyntaxError, ValueError):
            return [Discarded(api, Drop("gorilla:no_call", {"completion": call}))]
        asked = render("gorilla/ask", document=document_of(api), count=self.per_api)
        reply = await generate(asked, schema=SCHEMA, temperature=self.temperature, max_tokens=self.max_tokens)
        items = reply.parsed.get("items") if isinstance(reply.parsed, dict) else None
        if reply.cut or not items:
            raise ParseError("instructions", reply.text)
        made = [self._item(api, others, item, first, reply, rng) for item in items]
        surplus = Drop("gorilla:surplus", {"per_api": self.per_api})
        return [
            Discarded(item, surplus) if place >= self.per_api and isinstance(item, Record) else item
            for place, item in enumerate(made)
        ]

    def _item(
        self, api: Record, others: Sequence[Record], item: Any, call: ast.Call, reply: Completion, rng: Random
    ) -> Record | Discarded:
        instruction = str(item.get("instruction") or "").strip()
        shown: Record | None = None
        if rng.random() < self.with_document:
            shown = rng.choice(others) if others and rng.random() < self.wrong_document else api
        prompt = instruction
        if shown is not None:
            prompt = render("gorilla/with_document", instruction=instruction, document=document_of(shown))
        explanation = str(item.get("explanation") or "").strip()
        told = f"{explanation}\n\n" if explanation else ""
        child = api.child(
            *([shown] if shown not in (None, api) else []),
            by=self.name,
            replies=[reply],
            prompt=user(prompt),
            completion=assistant(f"{told}```python\n{text_of(api.completion).strip()}\n```"),
            rejected=None,
            label=None,
        )
        if not instruction:
            return Discarded(child, Drop("gorilla:empty"))
        leak = leaked_name(instruction, call)
        return Discarded(child, Drop("gorilla:leak", {"name": leak})) if leak else child


def document_of(api: Record) -> str:
    """The documentation of an API as JSON: what it does, its call, and whatever `meta` has of it."""
    plain = {"functionality": text_of(api.prompt), "api_call": text_of(api.completion), **api.meta}
    return orjson.dumps(plain).decode()


def leaked_name(instruction: str, call: ast.Call) -> str | None:
    """What of the API's name an instruction says: its dotted name, or the text that it loads. A plain word such as
    `load` gives nothing away."""
    function, text = identity(call)
    telling = [name for name in (function, text) if re.search(r"[._/-]|\w{2,}\d|[a-z][A-Z]", name)]
    return next((name for name in telling if name.lower() in instruction.lower()), None)
