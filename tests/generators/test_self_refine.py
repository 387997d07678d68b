"""Self-Refine: when it stops, which draft it keeps, and how often it asks."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.self_refine import SelfRefine
from kdaug.record import Discarded, Record, text_of, user
from kdaug.teacher import Completion

ASKED = Record(prompt=user("Name a river."))


def run(*replies: Any, **fields: Any) -> tuple[Any, Scripted]:
    generate = Scripted(in_turn(*replies))
    (made,) = asyncio.run(SelfRefine(**fields)([ASKED], generate, Random(0)))
    return made, generate


@pytest.mark.parametrize("stop", ["No issues.", "**NO ISSUES**", "It is right.\nno issues found"])
def test_the_stop_phrase_ends_it_whatever_its_case(stop: str) -> None:
    made, generate = run("Alp", "1. No river.", "Rhine", stop)
    assert text_of(made.completion) == "Rhine" and len(generate.calls) == 4 and made.prompt == ASKED.prompt


def test_it_asks_no_more_than_once_and_twice_an_iteration() -> None:
    made, generate = run("a", "bad", "b", "bad", "c", max_attempts=3)
    assert text_of(made.completion) == "c" and len(generate.calls) == 1 + 2 * 2
    made, generate = run("a", max_attempts=1)
    assert text_of(made.completion) == "a"


def test_the_best_score_is_kept_and_not_the_last() -> None:
    made, generate = run("a", "Score: 9", "b", "Score: 21", "c", "Score: 21", "d", "Score: 4", scored=True)
    assert text_of(made.completion) == "b" and made.scores == {"self_refine": 21.0}
    last = generate.prompts[6]
    assert all(f"Answer {n}:\n{draft}" in last for n, draft in ((1, "a"), (2, "b"), (3, "c")))
    assert "Score: 9" in last and len(made.replies) == 8


def test_without_scores_only_the_last_feedback_is_shown() -> None:
    _, generate = run("Alp", "bad 1", "Jura", "bad 2", "Rhine", "No issues.")
    assert "Alp" not in generate.prompts[4] and "Jura" in generate.prompts[4]


@pytest.mark.parametrize("mark", ["Good.", "Score: 26", "Score: -1"])
def test_a_mark_off_the_scale_is_no_mark(mark: str) -> None:
    with pytest.raises(ParseError, match="score"):
        run("a", mark, scored=True)


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        (["  "], "self_refine:empty"),
        (["a", Completion("It is", finish_reason="length")], "self_refine:cut"),
        (["a", "bad", "In this revised answer I name the Rhine.", "No issues."], "self_refine:meta"),
    ],
)
def test_what_is_discarded(replies: list[Any], reason: str) -> None:
    made, _ = run(*replies)
    assert isinstance(made, Discarded) and made.drop.reason == reason


def test_no_attempt_is_refused() -> None:
    with pytest.raises(ConfigError):
        SelfRefine(max_attempts=0)
