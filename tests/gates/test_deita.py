"""DEITA's scores: one mark a question, products summed over the turns, and no mark in the middle for a failure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ParseError
from kdaug.gates.deita import DeitaScores, turns
from kdaug.record import Drop, Message, Record, assistant, system, user
from kdaug.teacher import Completion

RECORD = Record(prompt=user("Name a river."), completion=assistant("The Rhine."))
DIALOGUE = Record(
    prompt=(*system("Be brief."), *user("Name a river."), *assistant("The Rhine."), *user("Why is it long?")),
    completion=assistant("It begins in the Alps."),
)


def test_a_turn_is_complexity_times_quality() -> None:
    generate = Scripted(in_turn(Completion("2", weights={"1": 0.5, "2": 0.5, "3": 0, "4": 0, "5": 0, "6": 0}), "5"))
    prepared = asyncio.run(DeitaScores().prepare(RECORD, generate))
    assert prepared.record.scores == {"complexity": 1.5, "quality": 5.0, "deita": 7.5}
    complexity, quality = generate.prompts
    assert "The Rhine." not in complexity and "The Rhine." in quality


def test_expected_values_and_the_sum_over_turns() -> None:
    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> Completion:
        first, complex = "Why is it long?" not in prompt, "How complex" in prompt
        said = {(True, True): 1, (True, False): 6, (False, True): 3, (False, False): 4}[first, complex]
        return Completion(str(said), weights={str(said): 0.75, str(said - 1 or 2): 0.25})

    prepared = asyncio.run(DeitaScores(min=20).prepare(DIALOGUE, Scripted(reply)))
    scores = prepared.record.scores
    assert scores["complexity"] == pytest.approx((1.25 + 2.75) / 2)
    assert scores["quality"] == pytest.approx((5.75 + 3.75) / 2)
    assert scores["deita"] == pytest.approx(1.25 * 5.75 + 2.75 * 3.75)
    drop = DeitaScores(min=20).decide(prepared)
    assert drop is not None and drop.reason == "deita:low" and drop.detail["min"] == 20
    assert DeitaScores(min=17).decide(prepared) is None


def test_a_failed_mark_is_no_mark() -> None:
    with pytest.raises(ParseError) as failure:
        asyncio.run(DeitaScores().prepare(RECORD, Scripted(in_turn("3", "Good."))))
    assert failure.value.reason == "parse:score"


def test_a_prompt_without_an_answer_is_dropped_unasked() -> None:
    prepared = asyncio.run(DeitaScores().prepare(Record(prompt=user("Hi")), Scripted(in_turn())))
    assert DeitaScores().decide(prepared) == Drop("deita:no_answer")


def test_turns() -> None:
    assert turns([*DIALOGUE.prompt, *(DIALOGUE.completion or ())]) == [
        ("system: Be brief.\n\nuser: Name a river.", "The Rhine."),
        ("Why is it long?", "It begins in the Alps."),
    ]
    called = (*user("Add."), *assistant("Calling."), Message("tool", "3"), *assistant("3."))
    assert turns(called) == [("Add.", "assistant: Calling.\n\ntool: 3\n\nassistant: 3.")]
    assert turns([*assistant("Hello."), *user("Hi.")]) == []
