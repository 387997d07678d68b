"""Marks and verdicts are read strictly: the last one counts, and what is off the scale is none."""

from __future__ import annotations

import asyncio

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ParseError
from kdaug.judging import compare, grade, leaked, mark, parse_choice, parse_score
from kdaug.record import Record, assistant, user
from kdaug.teacher import Completion

RECORD = Record(prompt=user("Name a river."), completion=assistant("The Rhine."))


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 4", 4),
        ("Score: 4/5", 4),
        ("score: 5.", 5),
        ("I give it 5. Score: 3", 3),
        ("Score: <4>", 4),
        ("Score: 2\n\nOn reflection:\nScore: 3\n", 3),
        ("**Score:** 4", 4),
        ("**Score: 4**", 4),
        ("### Score: **4** out of 5", 4),
        ("Score (1-5): 4 points", 4),
        ("Score: 4.0", 4),
        ("Final score = 1, for it is wrong.", 1),
        ("Score:\n4", 4),
        ('{"score": 4}', 4),
    ],
)
def test_the_last_mark_is_read(reply: str, score: float) -> None:
    assert parse_score(reply, 1, 5) == score


@pytest.mark.parametrize(
    "reply",
    [
        "Score: 42",
        "Score: 762",
        "Score: 4.5",
        "Score: 0",
        "Score: -3",
        "Score: 6",
        "Score: 4/10",
        "Score: 40%",
        "Score: 1-5",
        "Score: 4 or 5",
        "Score: 4,5",
        "Score: n",
        "Score: four",
        "I give it 5.",
        "The underscore: 4",
        "Score: 4\nScore: 42",
        "",
    ],
)
def test_what_is_no_mark_of_the_scale_is_a_failure(reply: str) -> None:
    with pytest.raises(ParseError) as failure:
        parse_score(reply, 1, 5)
    assert failure.value.reason == "parse:score"


def test_half_points_only_where_allowed() -> None:
    assert parse_score("Score: 4.5/5", 1, 5, half=True) == 4.5
    for reply in ("Score: 4.25", "Score: 5.5"):
        with pytest.raises(ParseError):
            parse_score(reply, 1, 5, half=True)


def test_ten_is_not_read_as_one() -> None:
    assert parse_score("Score: 10/10", 1, 10) == 10
    assert parse_score("Score: 0", 0, 5) == 0


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Verdict: equal", "equal"),
        ("Verdict: not equal", "not equal"),
        ("**Verdict:** Not Equal.", "not equal"),
        ("Not equal", "not equal"),
        ("They ask the same.\n\nequal.", "equal"),
        ("Verdict: equal\nNo, wait.\nVerdict: not equal", "not equal"),
        ("The two instructions are not equal.", "not equal"),
        ("Verdict: not equal, because the second adds a limit.", "not equal"),
    ],
)
def test_the_last_verdict_is_read(reply: str, verdict: str) -> None:
    assert parse_choice(reply, ("equal", "not equal")) == verdict


@pytest.mark.parametrize(
    "reply",
    [
        "They are not quite equal.",
        "They are equal if they ask the same.",
        "Verdict: equal or not equal",
        "Verdict: equal/not equal",
        "Verdict: unequal",
        "",
    ],
)
def test_what_names_no_choice_is_a_failure(reply: str) -> None:
    with pytest.raises(ParseError):
        parse_choice(reply, ("equal", "not equal"))


def test_grade_asks_the_judge_greedily_and_keeps_its_reasons() -> None:
    generate = Scripted(in_turn("A river, and in Europe.\n\n**Score: 4**"))
    verdict = asyncio.run(grade(RECORD, generate, low=1, high=5))
    assert verdict.score == 4
    assert verdict.rationale == "A river, and in Europe."
    (call,) = generate.calls
    assert call.role == "judge" and call.sampling["temperature"] == 0.0
    assert "Name a river." in call.prompt and "The Rhine." in call.prompt


def test_a_rubric_takes_the_place_of_the_shipped_one() -> None:
    generate = Scripted(in_turn("Score: 9", "Score: 9"))
    asyncio.run(grade(RECORD, generate, rubric="Only its rhythm counts.", high=10))
    asyncio.run(grade(RECORD, generate, high=10))
    assert "Only its rhythm counts." in generate.prompts[0] and "correct" not in generate.prompts[0]
    assert "from 1 (worst) to 10 (best)" in generate.prompts[1]


@pytest.mark.parametrize(("low", "high"), [(1, 5), (0, 5), (1, 10)])
def test_the_judge_is_shown_marks_of_the_scale_that_it_is_to_use(low: int, high: int) -> None:
    generate = Scripted(in_turn(f"Score: {high}"))
    asyncio.run(grade(RECORD, generate, low=low, high=high))
    *examples, asked = generate.calls[0].messages
    shown = [parse_score(m.content, low, high) for m in examples if m.role == "assistant"]
    assert (min(shown), max(shown), len(shown)) == (low, high, 3)
    assert asked.role == "user" and "Name a river." in asked.content


def test_an_empty_answer_is_judged_as_an_answer() -> None:
    generate = Scripted(in_turn("Score: 1"))
    asyncio.run(grade(Record(prompt=user("Name a river."), completion=assistant("")), generate))
    assert "Judge the answer." in generate.calls[0].messages[-1].content


def test_a_prompt_without_an_answer_is_judged_itself() -> None:
    generate = Scripted(in_turn("Score: 3"))
    assert asyncio.run(grade(Record(prompt=user("Name a river.")), generate)).score == 3
    assert "Judge the request itself" in generate.prompts[0] and "Answer:" not in generate.prompts[0]


def test_a_cut_reply_is_no_mark() -> None:
    """ "Score: 1" may have been the beginning of "Score: 10"."""
    generate = Scripted(in_turn(Completion("Good. Score: 1", finish_reason="length")))
    with pytest.raises(ParseError):
        asyncio.run(grade(RECORD, generate, high=10))


def test_words_that_were_there_before_are_not_leaked() -> None:
    assert leaked("The Rewritten Prompt is short.", ("rewritten prompt",), "Name a river.") == "rewritten prompt"
    assert leaked("Shorten this rewritten prompt.", ("rewritten prompt",), "Shorten the Rewritten Prompt") is None


def marked(reply: str | Completion) -> float:
    return asyncio.run(mark(user("How good? 1 to 5."), Scripted(in_turn(reply)), low=1, high=5)).score


@pytest.mark.parametrize(
    ("reply", "score"), [("4", 4), (" **3**\n", 3), ("Score: 2/5", 2), ("5.", 5), ("Rating: 1", 1)]
)
def test_a_mark_alone_is_read(reply: str, score: float) -> None:
    assert marked(reply) == score


@pytest.mark.parametrize("reply", ["", "good", "42", "-3", "4.5", "4/10", "1-5", "3 or 4", "I give it a 4", "0"])
def test_what_is_no_mark_alone_is_a_failure(reply: str) -> None:
    with pytest.raises(ParseError):
        marked(reply)


def test_a_mark_is_its_expected_value_where_the_teacher_weighs() -> None:
    weights = {"1": 0.0, "2": 0.0, "3": 0.0, "4": 0.75, "5": 0.25}
    assert marked(Completion("4", weights=weights)) == pytest.approx(4.25)
    # Weights of another place: what was said is not the likeliest there.
    assert marked(Completion("3", weights=weights)) == 3


PAIR = Record(prompt=user("Name a river."), completion=assistant("The Rhine."))


def compared(*replies: str | Completion) -> float:
    return asyncio.run(compare(PAIR, assistant("Berlin."), Scripted(in_turn(*replies)))).score


@pytest.mark.parametrize(
    ("replies", "score"),
    [
        (("Verdict: A", "Verdict: B"), 1.0),
        (("Verdict: B", "Verdict: A"), 0.0),
        (("Verdict: A", "Verdict: A"), 0.5),  # the first one, whichever it is
        (("Verdict: B", "Verdict: B"), 0.5),
        (("Verdict: tie", "Verdict: tie"), 0.5),
        (("Verdict: A", "Verdict: tie"), 0.5),
    ],
)
def test_a_verdict_that_turns_with_the_order_is_a_tie(replies: tuple[str, str], score: float) -> None:
    assert compared(*replies) == score


def test_both_orders_are_asked() -> None:
    generate = Scripted(in_turn("Verdict: A", "Verdict: B"))
    asyncio.run(compare(PAIR, assistant("Berlin."), generate))
    there, back = (call.messages[-1].content for call in generate.calls)
    assert there.index("The Rhine.") < there.index("Berlin.")
    assert back.index("Berlin.") < back.index("The Rhine.")


@pytest.mark.parametrize(
    "reply", ["Both are fine.", "Verdict: A or B", "", Completion("Verdict: A", finish_reason="length")]
)
def test_no_verdict_in_either_order_is_a_failure(reply: str | Completion) -> None:
    for replies in ((reply, "Verdict: A"), ("Verdict: A", reply)):
        with pytest.raises(ParseError) as failure:
            compared(*replies)
        assert failure.value.reason == "parse:verdict"
