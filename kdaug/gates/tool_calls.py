"""A gate that holds tool calls against the tools that the record offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from kdaug.errors import ConfigError, shorten
from kdaug.gate import Gate, Prepared
from kdaug.record import Drop, Json, ToolCall
from kdaug.structured import form_of
from kdaug.teacher import Completion


@dataclass(frozen=True)
class ToolCalls(Gate):
    """Drops records with a call in their answer that its tools do not allow.

    Each call must name one of the record's tools (`tool_calls:unknown`), its arguments must be a JSON object
    (`tool_calls:not_json`) that is valid under the tool's parameters (`tool_calls:arguments`); an argument that these
    do not name is wrong, unless they say `additionalProperties`. A tool whose schema is none: `tool_calls:bad_tool`.
    With `need` an answer without a call falls too (`tool_calls:none`).
    """

    need: bool = False

    name: ClassVar[str] = "tool_calls"

    def decide(self, prepared: Prepared) -> Drop | None:
        record = prepared.record
        calls = [call for message in record.completion or () for call in message.tool_calls]
        if not calls:
            return Drop("tool_calls:none") if self.need else None
        offered = parameters_of(record.tools)
        return next((drop for call in calls if (drop := flaw_of_call(call, offered))), None)


def parameters_of(tools: Sequence[Json]) -> dict[str, dict[str, Any]]:
    """The schema of each tool's arguments by its name, as the OpenAI API has them or without the `function` around."""
    found: dict[str, dict[str, Any]] = {}
    for tool in tools:
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            schema = inner.get("parameters") or {}
            plain = dict(schema) if isinstance(schema, Mapping) else {"type": schema}
            found[str(inner["name"])] = {"type": "object", "additionalProperties": False, **plain}
    return found


def flaw_of_call(call: ToolCall, offered: Mapping[str, Mapping[str, Any]]) -> Drop | None:
    evidence: dict[str, Json] = {"tool": call.name, "arguments": shorten(call.arguments, 400)}
    if call.name not in offered:
        return Drop("tool_calls:unknown", {**evidence, "offered": [*offered]})
    try:
        arguments = orjson.loads(call.arguments)
    except orjson.JSONDecodeError as e:
        return Drop("tool_calls:not_json", {**evidence, "problem": str(e)})
    if not isinstance(arguments, dict):
        return Drop("tool_calls:not_json", {**evidence, "problem": "the arguments are no object"})
    try:
        reading = form_of({"json": dict(offered[call.name])}).read(Completion(call.arguments))
    except ConfigError as e:
        return Drop("tool_calls:bad_tool", {**evidence, "problem": str(e)})
    return None if reading.fit == "valid" else Drop("tool_calls:arguments", {**evidence, "problem": reading.problem})
