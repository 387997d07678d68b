"""Feedback makes a preference of draft and revision, and says why where it does not."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.generators.feedback import Feedback, no_issues
from kdaug.record import Discarded, Record, assistant, system, text_of, user
from kdaug.teacher import Completion

PROMPT = (*system("Be brief."), *user("Name three rivers."))
RECORD = Record(prompt=PROMPT, scores={"difficulty": 2.0}, meta={"topic": "maps"})
DRAFT, CRITIQUE, REVISED = "The Rhine and the Alps.", "1. The Alps are no river.", "The Rhine, the Elbe and the Oder."


def refine(*answers: Any, record: Record = RECORD) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(*answers))
    (made,) = asyncio.run(Feedback()([record], generate, Random(0)))
    return made, generate


def test_the_revision_is_preferred_to_the_draft_of_the_plain_prompt() -> None:
    pair, generate = refine(DRAFT, CRITIQUE, REVISED)
    assert pair.kind == "preference" and pair.prompt == PROMPT
    assert (text_of(pair.completion), text_of(pair.rejected)) == (REVISED, DRAFT)
    assert pair.by == "feedback" and pair.parents == (RECORD.id,)
    assert pair.scores == {"difficulty": 2.0} and pair.meta == {"topic": "maps"}
    assert len(pair.replies) == 3 and pair.teachers == ("scripted-student", "scripted-teacher")
    drafted, criticised, revised = generate.calls
    assert [call.role for call in generate.calls] == ["student", "teacher", "teacher"]
    assert drafted.messages == PROMPT
    assert criticised.sampling["temperature"] == 0.0 and DRAFT in criticised.prompt
    assert all(text in revised.prompt for text in ("Name three rivers.", DRAFT, CRITIQUE))


def test_a_reference_answer_gives_way_to_the_pair() -> None:
    record = Record(prompt=PROMPT, completion=assistant("The Nile, the Tiber and the Seine."), label=True)
    pair, _ = refine(DRAFT, CRITIQUE, REVISED, record=record)
    assert pair.kind == "preference" and pair.label is None and text_of(pair.completion) == REVISED


@pytest.mark.parametrize(
    ("answers", "reason", "kind"),
    [
        ((DRAFT, "No issues."), "feedback:no_issues", "completion"),
        ((" ",), "feedback:empty", "completion"),
        ((Completion(DRAFT, finish_reason="length"),), "feedback:cut", "completion"),
        ((DRAFT, ""), "feedback:empty", "completion"),
        ((DRAFT, Completion(CRITIQUE, finish_reason="length")), "feedback:cut", "completion"),
        ((DRAFT, CRITIQUE, "The Rhine and  the Alps.\n"), "feedback:identical", "preference"),
        ((DRAFT, CRITIQUE, ""), "feedback:empty", "preference"),
        ((DRAFT, CRITIQUE, Completion(REVISED, finish_reason="length")), "feedback:cut", "preference"),
        ((DRAFT, CRITIQUE, "As the critique says: the Rhine."), "feedback:meta", "preference"),
    ],
)
def test_what_makes_no_pair_is_discarded_at_once(answers: tuple[Any, ...], reason: str, kind: str) -> None:
    made, _ = refine(*answers)
    assert isinstance(made, Discarded)
    assert made.drop.reason == reason and made.record.kind == kind
    assert (
        text_of(made.record.rejected or made.record.completion).strip()
        == text_of(assistant(getattr(answers[0], "text", answers[0]))).strip()
    )


def test_a_prompt_about_feedback_may_be_answered_with_that_word() -> None:
    record = Record(prompt=user("What is customer feedback?"))
    pair, _ = refine("A form.", "1. Too short.", "Customer feedback is what customers say.", record=record)
    assert isinstance(pair, Record)


@pytest.mark.parametrize("critique", ["No issues", "**No issues.**", "no issues found.", "It is right.\n\nNo issues."])
def test_no_issues(critique: str) -> None:
    assert no_issues(critique)


@pytest.mark.parametrize(
    "critique", ["There are no issues with its style, but the date is wrong.", "No issues with the date.", ""]
)
def test_an_issue_all_the_same(critique: str) -> None:
    assert not no_issues(critique)
