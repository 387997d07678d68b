"""Queries that a few tools together can serve (ToolLLM, arXiv 2307.16789, §2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, text_of, user
from kdaug.teacher import Completion
from kdaug.tool_definitions import BESIDE, Definition
from kdaug.tool_traces import shown
from kdaug.toolbox import Toolbox


@dataclass(frozen=True)
class ToolQueries:
    """Draws tools and asks for `per_prompt` queries, each with the tools that it needs; the parents are examples.

    A query whose tools are not among those drawn is `tool_queries:not_offered`, one without any
    `tool_queries:no_tools`. The record offers the tools that its query needs. Raises ParseError("queries") where the
    reply holds none.
    """

    tools: str = field(default="tools.py", metadata=BESIDE)
    drawn: int = 5  # at most; paper: 1 tool, or 2 to 5
    per_prompt: int = 10  # paper
    temperature: float = 1.0
    max_tokens: int = 2048
    toolbox: Toolbox = field(init=False, repr=False, metadata={"fingerprint": True})

    name: ClassVar[str] = "tool_queries"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.drawn < 1 or self.per_prompt < 1:
            raise ConfigError("tool_queries: drawn and per_prompt are at least 1")
        if not self.tools:
            raise ConfigError("tool_queries: tools is empty: give a file of tools, a module, or mcp:…")
        object.__setattr__(self, "toolbox", Toolbox(self.tools))

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        tools = self.toolbox.definitions
        offered = rng.sample(tools, rng.randint(1, min(self.drawn, len(tools))))
        examples = [text_of(parent.prompt) for parent in parents]
        asked = render("tool_queries/ask", tools=shown(offered), examples=examples, count=self.per_prompt)
        schema = _schema(offered, self.per_prompt)
        reply = await generate(asked, schema=schema, temperature=self.temperature, max_tokens=self.max_tokens)
        found = reply.parsed.get("queries") if isinstance(reply.parsed, dict) else None
        if reply.cut or not isinstance(found, list) or not found:
            raise ParseError("queries", reply.text)
        made = [self._child(parents, item, offered, reply) for item in found]
        surplus = Drop("tool_queries:surplus", {"per_prompt": self.per_prompt})
        return [
            Discarded(item, surplus) if place >= self.per_prompt and isinstance(item, Record) else item
            for place, item in enumerate(made)
        ]

    def _child(
        self, parents: Sequence[Record], item: Any, offered: Sequence[Definition], reply: Completion
    ) -> Record | Discarded:
        query, needed = str(item.get("query") or "").strip(), list(dict.fromkeys(item.get("tools") or ()))
        known = {definition.name: definition for definition in offered}
        child = parents[0].child(
            *parents[1:],
            by=self.name,
            replies=[reply],
            prompt=user(query),
            completion=None,
            rejected=None,
            label=None,
            tools=tuple(known[name].to_json() for name in needed if name in known),
            meta={},
        )
        if not query or not needed:
            return Discarded(child, Drop("tool_queries:no_tools" if query else "tool_queries:empty"))
        if missing := next((name for name in needed if name not in known), None):
            return Discarded(child, Drop("tool_queries:not_offered", {"tool": missing}))
        return child


def _schema(offered: Sequence[Definition], count: int) -> dict[str, Any]:
    # Any text is a name here, so that one query with a wrong tool does not void the others.
    name = {"anyOf": [{"enum": [definition.name for definition in offered]}, {"type": "string"}]}
    item = {"query": {"type": "string"}, "tools": {"type": "array", "items": name}}
    one = {"type": "object", "properties": item, "required": ["query", "tools"]}
    queries = {"type": "array", "items": one, "minItems": min(2, count)}
    return {"type": "object", "properties": {"queries": queries}, "required": ["queries"]}
