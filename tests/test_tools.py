"""Conversations of several turns with tools, held by a generator through the engine: journalled, and resumed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar

import orjson
import pytest
from servers.run import FakeOpenAI

from kdaug.errors import ParseError
from kdaug.generator import Generate
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Json, Message, Record, ToolCall, user
from kdaug.running import Outcome, execute
from kdaug.show import Story
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Completion, Request, Teacher
from kdaug.teachers.fake import Fake
from kdaug.teachers.openai import OpenAI

ADD: Json = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "The sum of two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}


@dataclass(frozen=True)
class Calculate:
    """Lets the model call `add` as often as it likes, and keeps the whole conversation."""

    turns: int = 4
    name: ClassVar[str] = "calculate"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> list[Record]:
        (parent,) = parents
        talk, replies = parent.prompt, []
        for _ in range(self.turns):
            reply = await generate(talk, tools=[ADD])
            replies.append(reply)
            talk += (reply.message,)
            if not reply.tool_calls:
                said = talk[len(parent.prompt) :]
                return [parent.child(by=self.name, completion=said, tools=(ADD,), replies=replies)]
            talk += tuple(Message("tool", self._add(call), (), call.id) for call in reply.tool_calls)
        raise ParseError("answer", talk[-1].content)

    def _add(self, call: ToolCall) -> str:
        try:
            given = orjson.loads(call.arguments)
            return str(given["a"] + given["b"])
        except (ValueError, KeyError, TypeError) as e:
            return f"wrong arguments: {e!r}"


def calculator(request: Request) -> Completion:
    """Adds 1, 2 and 3 in two calls, then says what came."""
    assert request.tools == (ADD,)
    told = [m.content for m in request.messages if m.role == "tool"]
    if len(told) < 2:
        arguments = '{"a": 1, "b": 2}' if not told else f'{{"a": {told[0]}, "b": 3}}'
        thought = f"I have {told or 'nothing'}."
        call = ToolCall(f"call_{len(told)}", "add", arguments)
        return Completion("", "tool_calls", reasoning=thought, tool_calls=(call,))
    assert [m.role for m in request.messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert request.messages[3].tool_calls[0].arguments == '{"a": 3, "b": 3}'
    return Completion(f"It is {told[-1]}.", reasoning="Done.")


def go(out: Path, teacher: Teacher) -> Outcome:
    seeds = [Record(prompt=user(f"{n}: what is 1 + 2 + 3?")) for n in range(3)]
    return execute(Recipe(Each(seeds), [Stage(Calculate())]), out, {"teacher": teacher}, log=Log(quiet=True))


def test_a_conversation_with_tools_is_kept_whole(out: Path) -> None:
    outcome = go(out, Fake(calculator))
    assert outcome.error is None
    records = list(outcome.dataset.records())
    assert len(records) == 3
    for record in records:
        assert record.completion is not None
        assert [m.role for m in record.completion] == ["assistant", "tool", "assistant", "tool", "assistant"]
        assert record.completion[-1].content == "It is 6."
        assert record.completion[0].tool_calls[0].name == "add"
        assert record.completion[1].tool_call_id == "call_0"
        assert record.tools == (ADD,)
        assert len(record.replies) == 3
    story = "\n".join(Story(out).tell(records[0].id))
    assert 'calls add({"a": 1, "b": 2})' in story
    assert "thought: I have nothing." in story


def test_a_conversation_is_gone_on_with_where_a_kill_left_it(out: Path, tmp_path: Path) -> None:
    whole = go(tmp_path / "whole", Fake(calculator))
    go(out, Fake(calculator))
    with sqlite3.connect(out / "journal.sqlite") as journal:
        journal.execute("DELETE FROM commits")
        journal.execute("DELETE FROM replies WHERE CAST(reply AS TEXT) LIKE '%It is 6%' AND job > 0")
        journal.execute("DELETE FROM replies WHERE CAST(request AS TEXT) LIKE '%call_0%' AND job = 2")
    again = Fake(calculator)
    outcome = go(out, again)
    assert sorted(len(request.messages) for request in again.calls) == [3, 5, 5]
    assert list(outcome.dataset.records()) == list(whole.dataset.records())


@pytest.fixture(scope="module")
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(reasoning=True) as server:
        yield server


def test_reasoning_and_calls_of_an_endpoint_are_journalled(server: FakeOpenAI, out: Path) -> None:
    """It calls the tool for ever, with arguments that are none."""
    outcome = go(out, OpenAI("m", base_url=server.url))
    assert outcome.facts["stages"][0]["dropped"] == {"parse:answer": 3}
    with sqlite3.connect(out / "journal.sqlite") as journal:
        replies = [orjson.loads(reply) for (reply,) in journal.execute("SELECT reply FROM replies")]
    assert len(replies) == 12
    for reply in replies:
        assert reply["reasoning"].startswith("Thinking about")
        assert reply["tool_calls"][0]["name"] == "add"
