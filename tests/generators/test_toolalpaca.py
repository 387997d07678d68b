"""ToolAlpaca: made-up functions are read as any user's, and only short traces that do something stay."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ParseError
from kdaug.generators.toolalpaca import ToolAlpaca
from kdaug.generators.toolalpaca_tools import ToolAlpacaTools
from kdaug.record import Discarded, Record, user
from kdaug.tool_definitions import Definition

PLACE = {"name": "place", "type": "string", "description": "where", "required": True}
TIDES = {"functions": [{"name": "get tides", "description": "Says it.", "parameters": [PLACE]}]}
TOOL = Definition("tides", "", {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]})
RECORD = Record(prompt=user("When is high tide?"), tools=(TOOL.to_json(),))
OK = '{"status": 200, "response": "at noon", "explanation": "x"}'


def design(*replies: Any) -> list[Record | Discarded]:
    record = Record(prompt=user("Tide Tables: when the sea is high."))
    return list(asyncio.run(ToolAlpacaTools()([record], Scripted(in_turn(*replies)), Random(0))))


def test_a_tool_and_what_is_asked_of_it() -> None:
    made = design(json.dumps(TIDES), "Sure!\n1. When is high tide in Brest?\n2. Call get_tides for Brest.")
    asked, named = made
    assert isinstance(asked, Record) and asked.prompt == user("When is high tide in Brest?")
    function: Any = asked.tools[0]
    assert function["function"]["name"] == "get_tides" and function["function"]["parameters"]["required"] == ["place"]
    assert isinstance(named, Discarded) and named.drop.reason == "toolalpaca_tools:names_function"
    assert len(asked.replies) == 2


def test_functions_that_are_none() -> None:
    (made,) = design(json.dumps({"functions": TIDES["functions"] * 2}))
    assert isinstance(made, Discarded) and made.drop.reason == "toolalpaca_tools:schema"
    for reply in ('{"functions": []}', '{"functions": [{"name": "x"}]}'):
        with pytest.raises(ParseError):
            design(reply)


def act(name: str, **arguments: Any) -> str:
    return json.dumps({"thought": "hm", "action": {"name": name, "arguments": arguments}})


CALL, ASK = act("tides", place="Brest"), act("ask_user", question="Where?")
END = act("Finish", return_type="give_answer", final_answer="At noon.")


def play(*replies: Any) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(*replies))
    (made,) = asyncio.run(ToolAlpaca()([RECORD], generate, Random(0)))
    return made, generate


def test_three_agents() -> None:
    made, generate = play(ASK, "In Brest.", CALL, OK, END)
    assert isinstance(made, Record)
    assert [m.role for m in made.completion or ()] == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert [m.content for m in made.completion or () if m.role == "tool"] == ["In Brest.", "at noon"]
    assert "It asks you: Where?" in generate.prompts[1] and len(made.replies) == 5
    assert {t["function"]["name"] for t in made.tools} == {"tides", "ask_user"}  # type: ignore[index, call-overload] # JSON


def test_five_steps_are_kept_and_six_are_not() -> None:
    made, _ = play(*[CALL, OK] * 5, END)
    assert isinstance(made, Record)
    made, _ = play(*[CALL, OK] * 5, CALL)
    assert isinstance(made, Discarded) and made.drop.reason == "toolalpaca:long"


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ((ASK, "In Brest.", END), "toolalpaca:only_details"),
        ((END,), "toolalpaca:no_call"),
        ((CALL, OK.replace("200", "404"), END), "toolalpaca:no_call"),
        ((act("tides"), END), "toolalpaca:no_call"),
        ((act("Finish", return_type="give_up_and_restart"),), "toolalpaca:give_up"),
    ],
)
def test_traces_that_teach_nothing(replies: tuple[str, ...], reason: str) -> None:
    made, _ = play(*replies)
    assert isinstance(made, Discarded) and made.drop.reason == reason
