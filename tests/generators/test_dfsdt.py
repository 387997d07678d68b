"""DFSDT visits its tree in the order of the paper's code, keeps one path of it, and stays within its budget."""

from __future__ import annotations

import asyncio
import json
import sys
from random import Random
from types import ModuleType
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ParseError, ServerError
from kdaug.generators.dfsdt import Dfsdt
from kdaug.record import Discarded, Record, text_of, user
from kdaug.tool_definitions import definitions

MODULE = "dfsdt_toys"


def look(place: str) -> str:
    """Looks at a place."""
    if place == "nowhere":
        raise LookupError("no such place")
    return f"{place} is nice"


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(MODULE)
    module.look = look  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODULE, module)


def act(name: str, thought: str = "hm", **arguments: Any) -> str:
    return json.dumps({"thought": thought, "action": {"name": name, "arguments": arguments}})


A, B, C = act("look", place="A"), act("look", place="B"), act("look", place="C")
END = act("Finish", return_type="give_answer", final_answer="Go to B.")
GIVE_UP = act("Finish", return_type="give_up_and_restart")
MALFORMED = act("Finish", return_type="give_answer")


def search(*replies: Any, **how: Any) -> tuple[Any, Scripted]:
    record = Record(prompt=user("Where to?"), tools=tuple(d.to_json() for d in definitions(f"{MODULE}:look")))
    generate = Scripted(in_turn(*replies))
    (made,) = asyncio.run(Dfsdt(**{"tools": f"{MODULE}:look", **how})([record], generate, Random(0)))
    return made, generate


def test_the_golden_order() -> None:
    made, generate = search(A, GIVE_UP, B, END)
    assert isinstance(made, Record) and len(generate.calls) == 4  # A's second child is never tried
    assert [m.role for m in made.completion or ()] == ["assistant", "tool", "assistant"]
    first, told, last = made.completion or ()
    assert (first.tool_calls[0].name, first.tool_calls[0].arguments) == ("look", '{"place":"B"}')
    assert (told.content, told.tool_call_id) == ("B is nice", first.tool_calls[0].id)
    assert last.content == "Go to B." and made.prompt == user("Where to?")
    third = generate.calls[2].messages[-1].content
    assert "A is nice" in third and "different" in third  # A alone is listed …
    assert "different" not in generate.calls[3].prompt and "A is nice" not in generate.calls[3].prompt
    assert "different" not in text_of(made.completion)  # … and the message is in no path
    assert len(made.replies) == 2


def test_a_give_up_as_the_first_reply_ends_it() -> None:
    made, generate = search(GIVE_UP)
    assert isinstance(made, Discarded) and made.drop.reason == "dfsdt:give_up" and len(generate.calls) == 1


def test_the_path_of_a_give_up_is_kept_aside() -> None:
    made, generate = search(A, GIVE_UP, B, GIVE_UP)
    assert isinstance(made, Discarded) and made.drop.reason == "dfsdt:give_up"
    assert [m.role for m in made.record.completion or ()] == ["assistant", "tool"] and len(generate.calls) == 4


def test_the_depth_counts_nodes_or_calls() -> None:
    made, generate = search(A, B, END, depth=6)  # two replies of three nodes each reach it: the end is B's sibling
    assert isinstance(made, Record) and "different" in generate.calls[2].messages[-1].content
    plain = act("look", thought="", place="A")
    _, generate = search(plain, plain, plain, END, depth=6)  # two nodes each: END comes at the third's sibling
    assert "different" in generate.calls[3].messages[-1].content
    _, generate = search(A, B, C, END, depth=6, count="calls")
    assert not any("different" in call.prompt for call in generate.calls)


def test_the_budget() -> None:
    made, generate = search(A, B, C, queries=3)
    assert isinstance(made, Discarded) and made.drop.reason == "dfsdt:unsolved"
    assert len(generate.calls) == 3 == made.drop.detail["queries"]


def test_an_exhausted_tree_is_unsolved() -> None:
    made, generate = search(A, B, depth=1)
    assert isinstance(made, Discarded) and made.drop.reason == "dfsdt:unsolved" and len(generate.calls) == 2


def test_an_unknown_tool_is_renamed_and_the_chain_goes_on() -> None:
    made, generate = search(act("ook", place="A"), B, END)
    names = [call.name for m in made.completion for call in m.tool_calls]
    assert names == ["invalid_function", "look"] and "there is no tool 'ook'" in generate.prompts[1]


def test_a_malformed_finish_is_told_and_not_learnt() -> None:
    made, generate = search(A, MALFORMED, END)
    assert "Finish needs return_type" in generate.prompts[2]
    assert [m.role for m in made.completion] == ["assistant", "tool", "assistant"]


def test_an_answer_without_a_call_that_worked() -> None:
    for replies in ((END,), (act("look", place="nowhere"), END), (act("look", at="A"), END)):
        made, _ = search(*replies)
        assert isinstance(made, Discarded) and made.drop.reason == "dfsdt:no_call"


def test_a_long_observation_is_cut() -> None:
    made, _ = search(act("look", place="x" * 3000), END)
    assert len(made.completion[1].content) == 1024


def test_where_nothing_can_be_called_it_is_made_up() -> None:
    answered = '{"status": 200, "response": "sunny", "explanation": "It is June."}'
    made, generate = search(A, answered, END, tools="")
    assert made.completion[1].content == "sunny" and '"place":"A"' in generate.prompts[1]
    assert len(made.replies) == 3


def test_failures() -> None:
    with pytest.raises(ParseError):
        search("I would look at A.")
    with pytest.raises(ServerError):
        search(ServerError("500"))
    made, _ = search(A, ServerError("500"))
    assert isinstance(made, Discarded) and made.drop.reason == ServerError("500").reason


def test_a_record_without_tools() -> None:
    (made,) = asyncio.run(Dfsdt()([Record(prompt=user("Where to?"))], Scripted(in_turn()), Random(0)))
    assert isinstance(made, Discarded) and made.drop.reason == "dfsdt:no_tools"
