"""A gate that holds tool calls against the tools that the record offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import orjson

from kdaug.errors import ConfigError, shorten
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.record import Drop, Json, Record, ToolCall
from kdaug.schemas import SLOW
from kdaug.teacher import Until
from kdaug.tool_definitions import from_json, named


@dataclass(frozen=True)
class ToolCalls(Gate):
    """Drops records with a call in their answer that its tools do not allow.

    Each call must name one of the record's tools (`tool_calls:unknown`), its arguments must be a JSON object
    (`tool_calls:not_json`) that is valid under the tool's parameters (`tool_calls:arguments`); an argument that these
    do not name is wrong, unless they say `additionalProperties`. A tool whose schema is none is `tool_calls:bad_tool`,
    one that cannot be applied in time (a regular expression) `tool_calls:timeout`. With `need` an answer without a call
    falls too (`tool_calls:none`).
    """

    need: bool = False

    name: ClassVar[str] = "tool_calls"

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        return Prepared(record, await self._flaw(record, generate.until))

    async def _flaw(self, record: Record, until: Until) -> Drop | None:
        calls = [call for message in record.completion or () for call in message.tool_calls]
        if not calls:
            return Drop("tool_calls:none") if self.need else None
        for call in calls:
            if drop := await flaw_of_call(call, record.tools, until):
                return drop
        return None


async def flaw_of_call(call: ToolCall, tools: Sequence[Json], until: Until) -> Drop | None:
    evidence: dict[str, Json] = {"tool": call.name, "arguments": shorten(call.arguments, 400)}
    offered = {name: tool for tool in tools if (name := named(tool)) is not None}
    if call.name not in offered:
        return Drop("tool_calls:unknown", {**evidence, "offered": [*offered]})
    try:
        arguments = orjson.loads(call.arguments)
    except orjson.JSONDecodeError as e:
        return Drop("tool_calls:not_json", {**evidence, "problem": str(e)})
    if not isinstance(arguments, dict):
        return Drop("tool_calls:not_json", {**evidence, "problem": "the arguments are no object"})
    try:
        wrong = await from_json(offered[call.name], "the record").flaw(arguments, until)
    except ConfigError as e:
        return Drop("tool_calls:bad_tool", {**evidence, "problem": str(e)})
    reason = "tool_calls:timeout" if wrong == SLOW else "tool_calls:arguments"
    return Drop(reason, {**evidence, "problem": wrong}) if wrong else None
