"""Self-RAG: the rule of choice, the grammar of the tokens, and the score, with the numbers of the fixtures."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import ParseError
from kdaug.generators.self_rag import FULL, IRRELEVANT, NONE, PARTIAL, SelfRag, choose, retrieves, segment_score
from kdaug.record import Discarded, Record, assistant, text_of, user

ANSWER = "The moon pulls at the sea and makes the tides. So it is. The spring tide is higher than usual ones are."
RECORD = Record(prompt=user("Why are there tides?"), completion=assistant(ANSWER))


class Fixed(Random):
    """Draws that are given."""

    def __new__(cls, *draws: float) -> Fixed:
        return super().__new__(cls)

    def __init__(self, *draws: float) -> None:
        super().__init__(0)
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0)


def test_the_rule_of_choice() -> None:
    for seed in range(20):
        assert choose([PARTIAL, FULL, IRRELEVANT], Random(seed)) == 1
    assert choose([PARTIAL, IRRELEVANT], Fixed(0.69)) == 0
    assert choose([PARTIAL, IRRELEVANT], Fixed(0.71, 0.0)) == 1
    assert choose([NONE, IRRELEVANT], Fixed(0.24)) == 0
    assert choose([IRRELEVANT, NONE, IRRELEVANT], Fixed(0.26, 0.9)) == 2  # a place in the whole list
    assert choose([NONE], Fixed(0.26)) is None and choose([], Random(0)) is None


def test_the_score() -> None:
    assert segment_score(-0.5, 0.8, 0.6, 0.3, (0.05, 0.05, 0.2, 0.3, 0.4)) == pytest.approx(2.3940306597)
    assert retrieves(0.21, 0.79) and not retrieves(0.2, 0.8) and not retrieves(0.0, 0.0)


def run(reply: Callable[[str], Any], record: Record = RECORD) -> tuple[Any, Scripted]:
    generate = Scripted(lambda role, prompt, sampling: reply(prompt))
    (made,) = asyncio.run(SelfRag(k=2)([record], generate, Random(0)))
    return made, generate


def critic(support: str, decision: str = "Retrieval") -> Callable[[str], str]:
    def reply(prompt: str) -> str:
        if "How useful" in prompt:
            return "4"
        return support if "What was found" in prompt else decision

    return reply


def grammar(record: Record) -> str:
    """The tokens in their order, without text; a passage is P."""
    parts = [
        ("P" if m.role == "tool" else "".join(re.findall(r"\[[A-Z][^]]*\]", m.content)))
        for m in record.completion or ()
    ]
    return "".join(parts)


def test_the_grammar() -> None:
    made, _ = run(critic(FULL))
    assert grammar(made) == "[Retrieval]P[Relevant][Fully supported][Retrieval]P[Relevant][Fully supported][Utility:4]"
    assert [m.role for m in made.completion] == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert all(m.content.startswith("<paragraph>") for m in made.completion if m.role == "tool")
    assert not any("<paragraph>" in m.content for m in made.completion if m.role == "assistant")
    assert "So it is." in made.completion[2].content  # short: no decision of its own
    made, _ = run(critic(IRRELEVANT))
    assert grammar(made) == "[Retrieval]P[Irrelevant][Retrieval]P[Irrelevant][Utility:4]"
    made, _ = run(critic(FULL, "No Retrieval"))
    assert grammar(made) == "[No Retrieval][No Retrieval][Utility:4]" and len(made.completion) == 1


def test_evidence_may_be_used_on() -> None:
    def reply(prompt: str) -> str:
        return "Continue to Use Evidence" if '"Continue to Use' in prompt else critic(FULL)(prompt)

    made, generate = run(reply)
    assert grammar(made).count("[Retrieval]P") == 1 == grammar(made).count("[Continue to Use Evidence]P")
    assert made.completion[1] == made.completion[3]  # the passage that was used before
    assert sum("What was found" in prompt for prompt in generate.prompts) == 3  # two, and the one that is used on


def test_what_cannot_be_read_is_never_the_best_label() -> None:
    for wrong in (
        critic("I think so"),
        critic(FULL, "perhaps"),
        lambda p: "6" if "How useful" in p else "No Retrieval",
    ):
        with pytest.raises(ParseError):
            run(wrong)


def test_a_record_without_an_answer() -> None:
    made, _ = run(critic(FULL), Record(prompt=user("Why?")))
    assert isinstance(made, Discarded) and made.drop.reason == "self_rag:no_answer"


def test_a_point_within_a_number_ends_no_sentence() -> None:
    answer = "The tide rises by 3.5 metres within six hours here. It falls again as slowly."
    made, _ = run(critic(FULL, "No Retrieval"), Record(prompt=user("How high?"), completion=assistant(answer)))
    assert re.sub(r"\[[^]]*\]", "", text_of(made.completion)) == answer
