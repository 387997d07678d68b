"""A recommendation dialogue ends with the right item, of those that there are, and the person never names it."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ParseError
from kdaug.generators.recommend import Recommend
from kdaug.record import Discarded, Record, assistant, text_of, user

RECORD = Record(prompt=user("Liked: Fog."), completion=assistant("The Pier"), meta={"candidates": ["The Pier", "Dawn"]})


def says(text: str, item: str = "(none yet)") -> str:
    return json.dumps({"text": text, "item": item})


def make(*replies: Any, record: Record = RECORD) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(*replies))
    (made,) = asyncio.run(Recommend(rounds=3)([record], generate, Random(0)))
    return made, generate


def test_a_dialogue_that_finds_it() -> None:
    made, generate = make(
        "Something dark.",
        says("By the sea?"),
        "Yes.",
        says("Dawn it is.", "Dawn"),
        "Too bright.",
        says("Then this.", "The Pier"),
    )
    assert isinstance(made, Record) and [m.role for m in made.completion or ()] == ["assistant", "user"] * 2 + [
        "assistant"
    ]
    assert text_of(made.prompt).startswith("Liked: Fog.") and text_of(made.prompt).endswith("Something dark.")
    assert (made.completion or ())[-1].content == "Then this.\n\nI recommend: The Pier"
    assert (made.completion or ())[2].content == "Dawn it is."
    assert "The Pier" not in generate.prompts[1].partition("The talk")[2] and len(made.replies) == 6


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        (("I want the pier.",), "leak"),
        ((" ",), "empty"),
        (("How can I help you today?",), "role_slip"),
        (("Dark.", says("This.", "Night")), "unknown_item"),
        (("Dark.", says("Dawn.", "Dawn")) * 3, "missed"),
    ],
)
def test_a_dialogue_that_is_none(replies: tuple[str, ...], reason: str) -> None:
    made, _ = make(*replies)
    assert isinstance(made, Discarded) and made.drop.reason == f"recommend:{reason}"


def test_what_cannot_begin_or_be_read() -> None:
    made, _ = make(record=Record(prompt=user("a"), completion=assistant("b"), meta={"candidates": ["c"]}))
    assert isinstance(made, Discarded) and made.drop.reason == "recommend:no_candidates"
    with pytest.raises(ParseError):
        make("Dark.", '{"text": ""}')
