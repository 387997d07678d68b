"""A gate that holds tool calls against the tools that the record offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import orjson

from kdaug.errors import ConfigError, shorten
from kdaug.gate import Gate, Prepared
from kdaug.gates.json_schema import duplicate_key
from kdaug.generator import Generate
from kdaug.record import Drop, Json, Record, ToolCall
from kdaug.schemas import SLOW
from kdaug.teacher import Until
from kdaug.tool_definitions import from_json, named


@dataclass(frozen=True)
class ToolCalls(Gate):
    """Drops records with a call that their tools do not allow, in whatever turn of the assistant.

    Each call must name one of the record's tools (`tool_calls:unknown`), its arguments must be a JSON object
    (`tool_calls:not_json`) with each key once (`tool_calls:duplicate_key`) that is valid under the tool's parameters
    (`tool_calls:arguments`); an argument that these do not name is wrong, unless they say `additionalProperties`. A
    tool whose schema is none is `tool_calls:bad_tool`, one that cannot be applied in time (a regular expression)
    `tool_calls:timeout`. Two calls of one id are `tool_calls:duplicate_id`: which of them a result belongs to is open.
    With `need` a record without a call falls too (`tool_calls:none`).
    """

    need: bool = False

    name: ClassVar[str] = "tool_calls"

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        return Prepared(record, await self._flaw(record, generate.until))

    async def _flaw(self, record: Record, until: Until) -> Drop | None:
        turns = (*record.prompt, *(record.completion or ()))  # of messages, all turns but the last stand in the prompt
        calls = [call for message in turns if message.role == "assistant" for call in message.tool_calls]
        if not calls:
            return Drop("tool_calls:none") if self.need else None
        for call in calls:
            if drop := await flaw_of_call(call, record.tools, until):
                return drop
        return _duplicate_id(calls)


def _duplicate_id(calls: Sequence[ToolCall]) -> Drop | None:
    """A call need not have an id."""
    for told_id, times in Counter(call.id for call in calls if call.id).items():
        if times > 1:
            told: list[Json] = [one.name for one in calls if one.id == told_id]
            return Drop("tool_calls:duplicate_id", {"id": told_id, "tools": told})
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
    if drop := _duplicate_key(call, evidence):
        return drop
    try:
        wrong = await from_json(offered[call.name], "the record").flaw(arguments, until)
    except ConfigError as e:
        return Drop("tool_calls:bad_tool", {**evidence, "problem": str(e)})
    reason = "tool_calls:timeout" if wrong == SLOW else "tool_calls:arguments"
    return Drop(reason, {**evidence, "problem": wrong}) if wrong else None


def _duplicate_key(call: ToolCall, evidence: dict[str, Json]) -> Drop | None:
    try:
        problem = duplicate_key(call.arguments)
    except RecursionError:
        return Drop("tool_calls:not_json", {**evidence, "problem": "it is nested too deeply"})
    return Drop("tool_calls:duplicate_key", {**evidence, "problem": problem}) if problem else None
