"""Gates that hold JSON answers and tool calls against their schemas."""

from __future__ import annotations

import pytest

from kdaug.errors import ConfigError
from kdaug.gate import Prepared
from kdaug.gates.json_schema import JsonSchema
from kdaug.gates.tool_calls import ToolCalls
from kdaug.record import Json, Message, Record, ToolCall, assistant, user

PERSON: dict[str, Json] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
}
ADD: dict[str, Json] = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"name": "Ada", "age": 3}', None),
        ('  {"name": "Ada"}\n', None),
        ('{"name": "Ada", "age": -1}', "json_schema:invalid"),
        ('{"age": 3}', "json_schema:invalid"),
        ('```json\n{"name": "Ada"}\n```', "json_schema:invalid"),
        ('Sure: {"name": "Ada"}', "json_schema:invalid"),
        ('{"name": "Ada"', "json_schema:invalid"),
        ("", "json_schema:invalid"),
        ("[" * 100_000, "json_schema:invalid"),
    ],
)
def test_an_answer_is_json_of_the_form_and_nothing_else(answer: str, reason: str | None) -> None:
    record = Record(prompt=user("Who?"), completion=assistant(answer))
    drop = JsonSchema(schema=PERSON).decide(Prepared(record))
    assert (drop.reason if drop else None) == reason
    assert drop is None or drop.detail["problem"]


def test_a_record_s_own_schema_goes_before_the_gate_s() -> None:
    record = Record(prompt=user("n"), completion=assistant("3"), meta={"schema": {"type": "integer"}})
    assert JsonSchema(schema=PERSON).decide(Prepared(record)) is None
    bare = Record(prompt=user("n"), completion=assistant("3"))
    drop = JsonSchema().decide(Prepared(bare))
    assert drop and drop.reason == "json_schema:no_schema"
    wrong = Record(prompt=user("n"), completion=assistant("3"), meta={"schema": {"type": "what"}})
    drop = JsonSchema().decide(Prepared(wrong))
    assert drop and drop.reason == "json_schema:bad_schema"
    with pytest.raises(ConfigError, match="not a JSON schema"):
        JsonSchema(schema={"type": "what"})


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("add", '{"a": 1, "b": 2}', None),
        ("add", '{"a": 1}', "tool_calls:arguments"),
        ("add", '{"a": 1, "b": 2, "c": 3}', "tool_calls:arguments"),
        ("add", '{"a": "1", "b": 2}', "tool_calls:arguments"),
        ("add", '{"a": 1, "b": 2', "tool_calls:not_json"),
        ("add", "[1, 2]", "tool_calls:not_json"),
        ("add", "", "tool_calls:not_json"),
        ("sub", '{"a": 1, "b": 2}', "tool_calls:unknown"),
        ("bare", "{}", None),
        ("bare", '{"x": 1}', "tool_calls:arguments"),
        ("broken", "{}", "tool_calls:bad_tool"),
    ],
)
def test_each_call_is_one_that_the_tools_allow(name: str, arguments: str, reason: str | None) -> None:
    good = ToolCall("0", "add", '{"a": 0, "b": 0}')
    said = (Message("assistant", "", (good, ToolCall("1", name, arguments))),)
    tools: tuple[Json, ...] = (ADD, {"name": "bare"}, {"name": "broken", "parameters": {"type": 3}}, "noise")
    drop = ToolCalls().decide(Prepared(Record(prompt=user("Add."), completion=said, tools=tools)))
    assert (drop.reason if drop else None) == reason
    assert drop is None or drop.detail["tool"] == name


def test_an_answer_without_a_call_falls_only_where_one_is_needed() -> None:
    record = Record(prompt=user("Add."), completion=assistant("3"), tools=(ADD,))
    assert ToolCalls().decide(Prepared(record)) is None
    drop = ToolCalls(need=True).decide(Prepared(record))
    assert drop and drop.reason == "tool_calls:none"
