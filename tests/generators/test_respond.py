"""Respond and Pass."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.pass_through import Pass
from kdaug.generators.respond import Respond
from kdaug.record import Discarded, Message, Record, ToolCall, assistant, system, user
from kdaug.teacher import Completion

PROMPT = (*system("Be brief."), *user("Name a river."))
BARE = Record(prompt=PROMPT, scores={"difficulty": 2.0})


def answer(record: Record, reply: str | Completion, **settings: Any) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(reply))
    (made,) = asyncio.run(Respond(**settings)([record], generate, Random(0)))
    return made, generate


def test_the_whole_prompt_is_asked_and_the_answer_kept_as_it_is() -> None:
    child, generate = answer(BARE, " The Rhine.\n", temperature=0.2, max_tokens=64)
    assert generate.calls[0].messages == PROMPT
    assert generate.calls[0].sampling == {"temperature": 0.2, "top_p": 1.0, "max_tokens": 64, "stop": ()}
    assert child.prompt == PROMPT and child.completion == assistant(" The Rhine.\n")
    assert child.by == "respond" and child.parents == (BARE.id,)
    assert child.scores == {"difficulty": 2.0}


def test_an_old_answer_is_replaced_and_what_was_said_of_it_is_gone() -> None:
    old = Record(prompt=PROMPT, completion=assistant("A lake."), label=False, scores={"judge": 1.0})
    child, _ = answer(old, "The Rhine.")
    assert child.completion == assistant("The Rhine.") and child.kind == "completion"
    assert child.scores == {}


def test_a_pair_is_no_pair_any_more() -> None:
    pair = Record(prompt=PROMPT, completion=assistant("a"), rejected=assistant("b"))
    assert answer(pair, "The Rhine.")[0].kind == "completion"


@pytest.mark.parametrize("nothing", ["", " \n"])
def test_an_empty_answer_is_a_parse_error(nothing: str) -> None:
    with pytest.raises(ParseError) as error:
        answer(BARE, nothing)
    assert error.value.reason == "parse:answer"


def test_a_cut_answer_is_discarded_unless_wanted() -> None:
    cut = Completion("The Rhi", finish_reason="length")
    made, _ = answer(BARE, cut)
    assert isinstance(made, Discarded) and made.drop.reason == "respond:cut"
    assert made.record.completion == assistant("The Rhi")
    kept, _ = answer(BARE, cut, keep_cut=True)
    assert kept.completion == assistant("The Rhi")


def test_a_guiding_system_prompt_is_asked_with_but_not_stored() -> None:
    child, generate = answer(Record(prompt=user("Name a river.")), "The Rhine.", system="careful")
    first, second = generate.calls[0].messages
    assert first.role == "system" and len(first.content) > 50 and second == Message("user", "Name a river.")
    assert child.prompt == user("Name a river.")


def test_a_system_message_of_the_record_is_heard_too() -> None:
    child, generate = answer(BARE, "The Rhine.", system="stepwise")
    assert [m.role for m in generate.calls[0].messages] == ["system", "user"]
    assert generate.calls[0].messages[0].content.endswith("\n\nBe brief.")
    assert child.prompt == PROMPT


def test_an_unknown_system_prompt_is_named() -> None:
    with pytest.raises(ConfigError, match="respond/nonsense"):
        answer(BARE, "The Rhine.", system="nonsense")


def test_another_role_may_answer() -> None:
    assert Respond().roles == ("teacher",) and Respond(role="student").roles == ("student",)
    child, generate = answer(BARE, "The Rhine.", role="student")
    assert generate.calls[0].role == "student" and child.teachers == ("scripted-student",)


def test_tools_are_offered_and_a_call_is_an_answer() -> None:
    record = Record(prompt=user("What time is it?"), tools=({"name": "clock"},))
    call = ToolCall("1", "clock", "{}")
    child, generate = answer(record, Completion("", finish_reason="tool_calls", tool_calls=(call,)))
    assert generate.calls[0].sampling["tools"] == ({"name": "clock"},)
    assert child.completion == (Message("assistant", "", (call,)),) and child.tools == record.tools


def test_pass_hands_on_what_it_gets_and_asks_nobody() -> None:
    records = [BARE, Record(prompt=user("a"))]
    generate = Scripted(in_turn())
    assert list(asyncio.run(Pass()(records, generate, Random(0)))) == records
    assert generate.calls == [] and Pass().roles == ()
