"""A plan is checked before it is carried out, and the record holds plan, calls, observations and answer."""

from __future__ import annotations

import asyncio
import json
import sys
from random import Random
from types import ModuleType
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.generators.planning import Planning
from kdaug.record import Discarded, Record, user
from kdaug.tool_traces import RESPONSE

MODULE = "planning_toys"


def weigh(what: str) -> int:
    """Weighs a thing."""
    return len(what)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(MODULE)
    module.weigh = weigh  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODULE, module)


def plan(*tools: str) -> str:
    return json.dumps({"plan": [{"step": f"Use {tool or 'thought'}.", "tool": tool} for tool in tools]})


def act(name: str, **arguments: Any) -> str:
    return json.dumps({"thought": "Step 1.", "action": {"name": name, "arguments": arguments}})


CALL, END = act("weigh", what="pear"), act("Finish", return_type="give_answer", final_answer="Four.")


def run(*replies: Any, **how: Any) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(*replies))
    planning = Planning(**{"tools": f"{MODULE}:weigh", **how})
    (made,) = asyncio.run(planning([Record(prompt=user("How heavy is a pear?"))], generate, Random(0)))
    return made, generate


def test_a_plan_and_its_trace() -> None:
    made, generate = run(plan("weigh", ""), CALL, END)
    assert isinstance(made, Record) and [m.role for m in made.completion or ()] == ["assistant", "tool", "assistant"]
    first, told, last = made.completion or ()
    assert first.content == "Plan:\n1. Use weigh. (weigh)\n2. Use thought.\n\nStep 1."
    assert first.tool_calls[0].name == "weigh" and told.content == "4" and last.content == "Four."
    assert len(made.tools) == 1 and len(made.replies) == 3 and made.teachers == ("scripted-teacher",)
    assert "Observation: 4" in generate.prompts[2]


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ((plan(),), "planning:empty"),
        ((plan("weigh", "measure"),), "planning:not_offered"),
        ((plan("weigh"), CALL, act("Finish", return_type="give_up_and_restart")), "planning:give_up"),
        ((plan("weigh"), CALL, CALL, CALL), "planning:unfinished"),
        ((plan("weigh"), END), "planning:off_plan"),
        ((plan("weigh"), act("weigh", of="pear"), END), "planning:off_plan"),
    ],
)
def test_what_is_no_plan_or_no_trace_of_it(replies: tuple[str, ...], reason: str) -> None:
    made, _ = run(*replies, steps=3)
    assert isinstance(made, Discarded) and made.drop.reason == reason


def test_without_tools_there_is_no_plan() -> None:
    made, _ = run(tools="")
    assert isinstance(made, Discarded) and made.drop.reason == "planning:no_tools"
    assert set(RESPONSE["properties"]) == {"status", "response", "explanation"}
