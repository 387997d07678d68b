"""LLM2LLM: only what the student gets wrong is expanded, and only seeds are asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.llm2llm import LLM2LLM, parse_solved
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.running import execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Completion, Request
from kdaug.teachers.fake import Fake

SEED = Record(prompt=user("What is 7 * 8?"), completion=assistant("7 * 8 = 56\n#### 56"))
TWO = (
    "Sure!\n**Question 1:** What is 6 * 9?\n**Answer 1:** It is 54.\n#### 54\n\n"
    "Question 2: What is 1,000 * 7?\nAnswer 2: So:\n#### 7,000"
)


def run(*answers: Any, record: Record = SEED, **fields: Any) -> tuple[list[Record], list[Discarded], Scripted]:
    generate = Scripted(in_turn(*answers))
    made = asyncio.run(LLM2LLM(**fields)([record], generate, Random(0)))
    return [m for m in made if isinstance(m, Record)], [m for m in made if isinstance(m, Discarded)], generate


def test_a_failure_becomes_questions_like_it() -> None:
    kept, discarded, generate = run("It is 54.", TWO, n=2)
    assert [text_of(r.prompt) for r in kept] == ["What is 6 * 9?", "What is 1,000 * 7?"] and not discarded
    assert text_of(kept[0].completion) == "It is 54.\n#### 54"
    assert all(r.parents == (SEED.id,) for r in kept)
    student, teacher = generate.calls
    assert (student.role, teacher.role) == ("student", "teacher") and student.sampling["temperature"] == 0.0
    assert "What is 7 * 8?" in teacher.prompt and "Write 2 new" in teacher.prompt


def test_what_the_student_can_do_is_not_expanded() -> None:
    kept, (right,), generate = run("7 * 8 is 56.0")
    assert not kept and right.drop.reason == "llm2llm:right" and len(generate.calls) == 1


def test_what_was_written_is_never_expanded() -> None:
    kept, (lost,), generate = run(record=SEED.child(by="llm2llm"))
    assert not kept and lost.drop.reason == "llm2llm:not_a_seed" and not generate.calls


def test_flaws_are_drops() -> None:
    text = (
        "Question 1: What is 7 * 8?\nAnswer 1: #### 56\nQuestion 2: Why?\nAnswer 2: Because.\n"
        "Question 3: What is 2 * 3?\nAnswer 3: It"
    )
    kept, discarded, _ = run("no", Completion(text, finish_reason="length"), n=3)
    assert not kept and [d.drop.reason for d in discarded] == ["llm2llm:copy", "llm2llm:no_answer", "llm2llm:cut"]


def test_a_reply_without_questions_is_a_parse_error() -> None:
    with pytest.raises(ParseError):
        run("no", "I would rather not.")
    assert parse_solved("Question: a?\nno answer here") == [("a?\nno answer here", "")]
    with pytest.raises(ConfigError):
        LLM2LLM(n=0)


def test_with_a_fixed_set_of_errors_all_parents_are_seeds_that_failed(tmp_path: Path) -> None:
    seeds = [Record(prompt=user(f"What is {n} * 8?"), completion=assistant(f"#### {8 * n}")) for n in range(20)]
    errors = {3, 5, 8, 13}

    def world(request: Request) -> str:
        asked = request.messages[-1].content
        if "new questions" in asked:
            return f"Question 1: How much is {request.nonce} * 2?\nAnswer 1: Twice.\n#### {2 * request.nonce}"
        n = int(asked.split()[2])
        return str(8 * n + (n in errors))

    recipe = Recipe(Each(seeds), [Stage(LLM2LLM())])
    teachers = {"teacher": Fake(world, name="t"), "student": Fake(world, name="s")}
    outcome = execute(recipe, tmp_path / "run", teachers, log=Log(quiet=True))
    failed = {seeds[n].id for n in errors}
    assert {parent for r in outcome.dataset.records() for parent in r.parents} == failed
    assert outcome.facts["stages"][0]["dropped"] == {"llm2llm:right": 16}
