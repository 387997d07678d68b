"""Tools that a model makes up, as an OpenAPI document, and what people ask of them (ToolAlpaca, arXiv 2306.05301)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import orjson

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, text_of, user
from kdaug.samples import list_items
from kdaug.teacher import Completion
from kdaug.tool_definitions import Definition, distinct, from_openapi

_FIELD = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "type": {"enum": ["string", "integer", "number", "boolean"]},
        "description": {"type": "string"},
        "required": {"type": "boolean"},
    },
    "required": ["name", "type", "description", "required"],
}
_FUNCTION = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "parameters": {"type": "array", "items": _FIELD},
    },
    "required": ["name", "description", "parameters"],
}
SCHEMA = {
    "type": "object",
    "properties": {"functions": {"type": "array", "items": _FUNCTION, "minItems": 1}},
    "required": ["functions"],
}


@dataclass(frozen=True)
class ToolAlpacaTools:
    """From a tool's name and what it is for (the record's prompt) to its functions, and `per_tool` instructions.

    The functions are put into an OpenAPI document and read from it as any user's would be; one that cannot be is
    `toolalpaca_tools:schema`. An instruction that names a function is `toolalpaca_tools:names_function`. Raises
    ParseError("list") where there is no instruction.
    """

    per_tool: int = 10  # paper
    temperature: float = 0.5  # paper
    max_tokens: int = 2048

    name: ClassVar[str] = "toolalpaca_tools"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.per_tool < 1:
            raise ConfigError("toolalpaca_tools: per_tool is at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        asked = render("toolalpaca_tools/functions", tool=text_of(record.prompt))
        reply = await generate(asked, schema=SCHEMA, temperature=self.temperature, max_tokens=self.max_tokens)
        try:
            tools = distinct(list(from_openapi(document(reply), "the reply", _refuse)), "the reply")
        except ConfigError as e:
            return [Discarded(record.child(by=self.name, replies=[reply]), _unreadable(e))]
        told = [orjson.dumps(tool.to_json()["function"]).decode() for tool in tools]
        asked = render("toolalpaca_tools/ask", tool=text_of(record.prompt), functions=told, count=self.per_tool)
        list_ = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        return [
            self._child(record, text, flaw, tools, [reply, list_]) for text, flaw in list_items(list_, self.per_tool)
        ]

    def _child(
        self, record: Record, text: str, flaw: str | None, tools: Sequence[Definition], replies: Sequence[Completion]
    ) -> Record | Discarded:
        child = record.child(
            by=self.name,
            replies=replies,
            prompt=user(text),
            completion=None,
            rejected=None,
            label=None,
            tools=tuple(tool.to_json() for tool in tools),
            meta={},
        )
        if flaw:
            return Discarded(child, Drop(f"{self.name}:{flaw}"))
        named = next((tool.name for tool in tools if tool.name.lower() in text.lower().split()), None)
        return Discarded(child, Drop(f"{self.name}:names_function", {"function": named})) if named else child


def _refuse(line: str) -> None:
    """A document of a model's is right as a whole, or none."""
    raise ConfigError(line)


def _unreadable(e: ConfigError) -> Drop:
    return Drop("toolalpaca_tools:schema", {"problem": str(e)})


def document(reply: Completion) -> dict[str, Any]:
    """The OpenAPI document of the functions. Raises ParseError("functions") where there is none, or it was cut."""
    found = reply.parsed.get("functions") if isinstance(reply.parsed, Mapping) else None
    if reply.cut or not isinstance(found, list) or not found:
        raise ParseError("functions", reply.text)
    try:
        return {"openapi": "3.1.0", "paths": {f"/{number}": _path(one) for number, one in enumerate(found)}}
    except (KeyError, TypeError) as e:
        raise ParseError("functions", reply.text) from e


def _path(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = [
        {
            "name": field["name"],
            "in": "query",
            "required": field["required"],
            "schema": {"type": field["type"], "description": field["description"]},
        }
        for field in function["parameters"]
    ]
    name = "_".join(str(function["name"]).split()).strip(".")
    return {"get": {"operationId": name, "description": function["description"], "parameters": parameters}}
