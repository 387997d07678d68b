"""Reflection-Tuning: sections of a teacher's reply, and what the student's perplexities take of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from math import log
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ParseError
from kdaug.generators.reflection_tuning import ReflectionTuning, SelectiveReflection, section
from kdaug.record import Discarded, Message, Record, assistant, text_of, user
from kdaug.teacher import Completion

OLD = Record(prompt=user("Name a river."), completion=assistant("Rhine."), meta={"instruction": "Name a river."})
NEW_REQUEST = "It is thin.\n[New Request]\nName a long river.\n[End]\n**[New Answer]**\nThe Nile.\n**[End of Answer]**"
NEW_ANSWER = "Too short.\n[Better Answer]\nThe Nile, 6,650 km.\n[End]"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[Better Answer]\nyes\n[End]", "yes"),
        ("**[Better Answer]**:\nyes, **very**.\n**[End]**", "yes, **very**."),
        ("[better  answer] yes [END OF ANSWER]", "yes"),
        ("[Better Answer]\nfirst\n[End]\nno:\n[Better Answer]\nlast\n[End]", "last"),
    ],
)
def test_sections(text: str, found: str) -> None:
    assert section(text, "Better Answer") == found


@pytest.mark.parametrize("text", ["[Better Answer]\nyes", "Better Answer: yes\n[End]", "[Better Answer]\n\n[End]", ""])
def test_a_section_without_its_end_is_none(text: str) -> None:
    with pytest.raises(ParseError):
        section(text, "Better Answer")


def reflect(*answers: Any, record: Record = OLD) -> Record | Discarded:
    (made,) = asyncio.run(ReflectionTuning()([record], Scripted(in_turn(*answers)), Random(0)))
    return made


def test_request_and_answer_are_rewritten() -> None:
    made = reflect(NEW_REQUEST, NEW_ANSWER)
    assert isinstance(made, Record) and made.roots == (OLD.id,) and not made.meta
    assert (text_of(made.prompt), text_of(made.completion)) == ("Name a long river.", "The Nile, 6,650 km.")


@pytest.mark.parametrize(
    ("first", "second", "prompt", "answer"),
    [
        ("[New Request]\nName a lake.\n[End]", NEW_ANSWER, "Name a river.", "The Nile, 6,650 km."),
        (NEW_REQUEST, "It is fine.", "Name a long river.", "The Nile."),
        (Completion(NEW_REQUEST, finish_reason="length"), "", "Name a river.", "Rhine."),
    ],
)
def test_what_lacks_a_section_keeps_what_was_there(first: Any, second: str, prompt: str, answer: str) -> None:
    made = reflect(first, second)
    assert isinstance(made, Record) and (text_of(made.prompt), text_of(made.completion)) == (prompt, answer)


def select(scores: dict[str, float]) -> Record | Discarded:
    """The selection with given (r-)IFDs: `ifd` by answer, `r_ifd` by answer; a loss is its logarithm, of one token."""

    def view(prompt: Sequence[Message], completion: Sequence[Message]) -> list[float]:
        if not text_of(prompt):
            return [0.0]
        answer = next(a for a in ("6,650", "The Nile.", "Rhine.") if a in text_of(prompt) + text_of(completion))
        kind = "r_ifd" if text_of(prompt).startswith("Below is an answer") else "ifd"
        return [-log(scores[f"{kind} {answer}"])]

    generate = Scripted(in_turn(NEW_REQUEST, NEW_ANSWER), view=view)
    (made,) = asyncio.run(SelectiveReflection()([OLD], generate, Random(0)))
    return made


@pytest.mark.parametrize(("harder", "fits"), list(itertools.product([True, False], repeat=2)))
def test_the_truth_table_of_the_selection(harder: bool, fits: bool) -> None:
    scores = {"ifd Rhine.": 0.5, "ifd The Nile.": 0.6 if harder else 0.4, "ifd 6,650": 0.7}
    scores |= {"r_ifd Rhine.": 0.5, "r_ifd The Nile.": 0.5, "r_ifd 6,650": 0.4 if fits else 0.6}
    made = select(scores)
    wanted = "Name a long river." if harder else "Name a river."
    if fits:
        assert isinstance(made, Record) and text_of(made.prompt) == wanted
        assert text_of(made.completion) == "The Nile, 6,650 km."
        assert made.scores == pytest.approx({"ifd": 0.7, "r_ifd": 0.4})
    else:
        assert isinstance(made, Discarded) and made.drop.reason == "selective_reflection:unchanged"
        assert text_of(made.record.prompt) == wanted


@pytest.mark.parametrize(("ifd", "r_ifd", "reason"), [(1.0, 0.4, "ifd"), (0.9, 1.0, "r_ifd"), (1.2, 1.1, "ifd")])
def test_one_or_more_is_dropped(ifd: float, r_ifd: float, reason: str) -> None:
    scores = {"ifd Rhine.": 0.5, "ifd The Nile.": 0.4, "ifd 6,650": ifd}
    made = select(scores | {"r_ifd Rhine.": 2.0, "r_ifd The Nile.": 2.0, "r_ifd 6,650": r_ifd})
    assert isinstance(made, Discarded) and made.drop.reason == f"selective_reflection:{reason}"


def test_a_request_alone_is_dropped() -> None:
    made = reflect(record=Record(prompt=user("Name a river.")))
    assert isinstance(made, Discarded) and made.drop.reason == "reflection_tuning:no_answer"
