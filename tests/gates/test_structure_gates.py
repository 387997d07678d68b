"""Gates that hold JSON answers and tool calls against their schemas."""

from __future__ import annotations

import asyncio
import json

import pytest
from scripted import Scripted, in_turn

from kdaug import schemas
from kdaug.errors import ConfigError
from kdaug.gate import Gate
from kdaug.gates.json_schema import JsonSchema
from kdaug.gates.tool_calls import ToolCalls
from kdaug.record import Drop, Json, Message, Record, ToolCall, assistant, user

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


def verdict(gate: Gate, record: Record) -> Drop | None:
    return gate.decide(asyncio.run(gate.prepare(record, Scripted(in_turn()))))


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
        ("[" * 1_000 + "]" * 1_000, "json_schema:invalid"),
        ('{"name": "Ada", "age": 3, "more": [{"a": 1, "a": 2}]}', "json_schema:duplicate_key"),
        ('{"name": "Ada", "age": 3, "age": -1}', "json_schema:invalid"),
    ],
)
def test_an_answer_is_json_of_the_form_and_nothing_else(answer: str, reason: str | None) -> None:
    record = Record(prompt=user("Who?"), completion=assistant(answer))
    drop = verdict(JsonSchema(schema=PERSON), record)
    assert (drop.reason if drop else None) == reason
    assert drop is None or drop.detail["problem"]


def test_a_record_s_own_schema_goes_before_the_gate_s() -> None:
    record = Record(prompt=user("n"), completion=assistant("3"), meta={"schema": {"type": "integer"}})
    assert verdict(JsonSchema(schema=PERSON), record) is None
    bare = Record(prompt=user("n"), completion=assistant("3"))
    drop = verdict(JsonSchema(), bare)
    assert drop and drop.reason == "json_schema:no_schema"
    wrong = Record(prompt=user("n"), completion=assistant("3"), meta={"schema": {"type": "what"}})
    drop = verdict(JsonSchema(), wrong)
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
        ("add", '{"a": 1, "a": 3, "b": 2}', "tool_calls:duplicate_key"),
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
    drop = verdict(ToolCalls(), Record(prompt=user("Add."), completion=said, tools=tools))
    assert (drop.reason if drop else None) == reason
    assert drop is None or drop.detail["tool"] == name


@pytest.mark.parametrize(
    ("answer", "told"),
    [("NaN", "at 'NaN'"), ('{"age": -Infinity}', "Infinity}'"), ("1e999", "number is infinity"), ("3]", "at ']'")],
)
def test_what_is_no_json_is_named_as_it_is(answer: str, told: str) -> None:
    drop = verdict(JsonSchema(schema={"type": "integer"}), Record(prompt=user("n"), completion=assistant(answer)))
    assert drop and drop.reason == "json_schema:invalid" and told in str(drop.detail["problem"])


def trajectory(*calls: ToolCall) -> Record:
    """As a row of messages is read: all turns but the last are the prompt."""
    acted = [(Message("assistant", "", (call,)), Message("tool", "3", tool_call_id=call.id)) for call in calls]
    return Record(
        prompt=(*user("Add."), *(turn for pair in acted for turn in pair)), completion=assistant("3"), tools=(ADD,)
    )


def test_every_turn_of_the_assistant_is_checked() -> None:
    first, second = ToolCall("0", "add", '{"a": 1, "b": 2}'), ToolCall("1", "add", '{"a": 1, "b": 3}')
    assert verdict(ToolCalls(need=True), trajectory(first, second)) is None
    drop = verdict(ToolCalls(), trajectory(first, ToolCall("1", "sub", "{}")))
    assert drop and drop.reason == "tool_calls:unknown" and drop.detail["tool"] == "sub"


def test_two_calls_of_one_id_are_dropped_and_an_id_is_not_needed() -> None:
    one, two = ToolCall("0", "add", '{"a": 1, "b": 2}'), ToolCall("0", "add", '{"a": 1, "b": 3}')
    drop = verdict(ToolCalls(), trajectory(one, two))
    assert drop and drop.reason == "tool_calls:duplicate_id" and drop.detail == {"id": "0", "tools": ["add", "add"]}
    bare = ToolCall("", "add", '{"a": 1, "b": 2}')
    assert verdict(ToolCalls(), trajectory(bare, bare)) is None


def test_a_schema_may_be_json_text() -> None:
    def of(schema: Json) -> str | None:
        drop = verdict(JsonSchema(), Record(prompt=user("n"), completion=assistant("3"), meta={"schema": schema}))
        return drop.reason if drop else None

    assert of('{"type": "integer"}') is None and of('{"type": "string"}') == "json_schema:invalid"
    assert of("{") == of("[]") == of(5) == "json_schema:bad_schema"


def test_a_schema_that_goes_round_in_a_circle_is_to_blame_and_not_the_answer() -> None:
    circle, tree = {"$ref": "#"}, {"type": ["object", "integer"], "additionalProperties": {"$ref": "#"}}
    with pytest.raises(ConfigError, match="round in a circle"):
        schemas.find_flaw(json.dumps(circle), {"a": [1]})
    assert schemas.find_flaw(json.dumps(tree), {"a": {"a": 1}}) is None
    deep: Json = 1
    for _ in range(400):
        deep = {"a": deep}
    assert schemas.find_flaw(json.dumps(tree), deep) == "it is nested too deeply"


def nested(depth: int) -> Json:
    return {"items": nested(depth - 1)} if depth else {}


BAD: list[Json] = [
    {"pattern": "("},
    {"pattern": "a{4294967296}"},
    {"pattern": "(" * 3_000 + ")" * 3_000},
    {"$schema": "http://["},
    {"$schema": 5},
    {"$schema": {}},
    {"$ref": "http://["},
    {"$ref": "#/nowhere"},
    nested(300),
]


@pytest.mark.parametrize("schema", BAD)
def test_a_schema_that_cannot_be_applied_is_a_drop(schema: Json) -> None:
    record = Record(prompt=user("n"), completion=assistant('["a"]'), meta={"schema": schema})
    drop = verdict(JsonSchema(), record)
    assert drop and drop.reason == "json_schema:bad_schema"


HANGS: dict[str, Json] = {"type": "string", "pattern": "^(a+)+$"}


def test_a_pattern_that_hangs_is_a_timeout_and_the_next_is_answered() -> None:
    hangs = Record(prompt=user("n"), completion=assistant(f'"{"a" * 40}!"'), meta={"schema": HANGS})
    drop = verdict(JsonSchema(), hangs)
    assert drop and drop.reason == "json_schema:timeout"
    for answer, reason in (('"aaa"', None), ('"b"', "json_schema:invalid")):
        record = Record(prompt=user("n"), completion=assistant(answer), meta={"schema": HANGS})
        drop = verdict(JsonSchema(), record)
        assert (drop.reason if drop else None) == reason


def test_a_tool_whose_pattern_hangs_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended:
        async def ask(self, question: object, until: object) -> None:
            pass

    monkeypatch.setattr(schemas, "_worker", Ended())
    tool: Json = {"name": "find", "parameters": {"properties": {"a": HANGS}}}
    call = ToolCall("0", "find", f'{{"a": "{"a" * 40}!"}}')
    said = (Message("assistant", "", (call,)),)
    drop = verdict(ToolCalls(), Record(prompt=user("Find."), completion=said, tools=(tool,)))
    assert drop and drop.reason == "tool_calls:timeout"


@pytest.mark.parametrize(
    ("schema", "apart"),
    [
        (PERSON, False),
        ({"properties": {"a": {"enum": ["pattern", "$ref"]}}}, False),
        ({"items": {"pattern": "a"}}, True),
        ({"patternProperties": {"a": {}}}, True),
        ({"uniqueItems": True}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}}, True),
        ({"allOf": [{"$dynamicRef": "#a"}], "$defs": {"a": {"$dynamicAnchor": "a"}}}, True),
    ],
)
def test_only_what_may_hang_is_asked_of_a_process_of_its_own(
    schema: dict[str, Json], apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    class Told:
        async def ask(self, question: object, until: object) -> object:
            asked.append(question)
            return {"flaw": None}

    monkeypatch.setattr(schemas, "_worker", Told())
    record = Record(prompt=user("n"), completion=assistant('{"name": "Ada"}'), meta={"schema": schema})
    assert verdict(JsonSchema(), record) is None and bool(asked) == apart


def test_an_answer_without_a_call_falls_only_where_one_is_needed() -> None:
    record = Record(prompt=user("Add."), completion=assistant("3"), tools=(ADD,))
    assert verdict(ToolCalls(), record) is None
    drop = verdict(ToolCalls(need=True), record)
    assert drop and drop.reason == "tool_calls:none"
