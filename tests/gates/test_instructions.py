"""Self-Instruct's rules on an instruction's wording."""

from __future__ import annotations

from typing import Any

import pytest

from kdaug.gate import Prepared
from kdaug.gates.instructions import InstructionFilters
from kdaug.record import Drop, Record, user


def decide(text: str, **settings: Any) -> Drop | None:
    return InstructionFilters(**settings).decide(Prepared(Record(prompt=user(text))))


def reason(text: str, **settings: Any) -> str:
    drop = decide(text, **settings)
    return drop.reason.removeprefix("instructions:") if drop else "kept"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Explain mapping reductions", "kept"),
        ("Draw a circle", "blacklist"),
        ("Drawing lessons", "kept"),
        ("Go to the shop", "blacklist"),
        ("Summarise the graph", "blacklist"),
        ("Describe these PICTURES.", "blacklist"),
        ("Rename files", "blacklist"),
        ("Let it go, to be free", "kept"),
        ("Imagery in the profile of a cartographer", "kept"),
        ("Summarise graph-based methods", "blacklist"),
    ],
)
def test_blacklist_by_whole_words(text: str, verdict: str) -> None:
    assert reason(text, min_words=1) == verdict


@pytest.mark.parametrize(("words", "verdict"), [(3, "too_short"), (4, "kept"), (150, "kept"), (151, "too_long")])
def test_length(words: int, verdict: str) -> None:
    assert reason("word " * words) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("Write a program that sorts a list.", "program"),
        ("write a program that sorts a list.", "program"),
        ("Write a programme for the concert.", "kept"),
        ("Write a short program that sorts.", "kept"),
        ("(Optional) tell us about your day.", "leading_punctuation"),
        ("- tell us about your day.", "leading_punctuation"),
        ("Über den Fluss und weiter.", "leading_non_ascii"),
        ("“Tell us” about your day.", "leading_non_ascii"),
        ("Describe the Übergang in a sentence.", "kept"),
        ("3 ways to tie a knot, please.", "kept"),
    ],
)
def test_beginnings(text: str, verdict: str) -> None:
    assert reason(text) == verdict


def test_other_languages_and_wishes() -> None:
    assert reason("用一句话描述春天", min_words=1, ascii_start=False) == "kept"
    assert reason("Write a program that sorts a list.", programs=True) == "kept"
    assert reason("Draw a circle of stars.", blacklist=()) == "kept"
    assert reason("Call the C++ compiler now.", blacklist=("c++",)) == "blacklist"


def test_every_drop_shows_its_evidence() -> None:
    assert decide("Too few words") == Drop("instructions:too_short", {"words": 3, "min_words": 4})
    assert decide("Please Go To the shop now.") == Drop("instructions:blacklist", {"word": "Go To"})
    assert decide("# Tell us about it") == Drop("instructions:leading_punctuation", {"character": "#"})


def test_the_input_is_not_looked_at() -> None:
    record = Record(
        prompt=user("Count the words in it.\n\na picture"), meta={"instruction": "Count the words in it.", "input": "…"}
    )
    assert InstructionFilters().decide(Prepared(record)) is None
