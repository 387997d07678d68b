"""PERsD on scripted programs that pass, fail, raise, loop, fork and lie: what is kept is exact, in each format."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from engines import need_sandbox
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError
from kdaug.generators.persd import Persd
from kdaug.prompts import render
from kdaug.record import Discarded, Json, Record, text_of, user
from kdaug.teacher import Completion

TASK = "Write `add(a, b)`."
TESTS: list[Json] = ["assert add(1, 2) == 3", "def test_zero():\n    assert add(0, 0) == 0"]
SEED = Record(prompt=user(TASK), meta={"tests": TESTS})
RIGHT = "Here you go:\n```python\ndef add(a, b):\n    return a + b\n```\nI fixed your attempt."


@pytest.fixture(autouse=True)
def _allowed() -> None:
    need_sandbox()


def go(*answers: str | Completion, seed: Record = SEED, how: str = "both") -> tuple[list[Record | Discarded], Scripted]:
    generate = Scripted(in_turn(*answers))
    made = asyncio.run(Persd(cpu=1, format=how)([seed], generate, Random(0)))  # type: ignore[arg-type] # one of three
    return list(made), generate


def reason(made: list[Record | Discarded]) -> str:
    (only,) = made
    assert isinstance(only, Discarded)
    return only.drop.reason


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("```python\ndef add(a, b):\n    return a - b\n```", "AssertionError"),
        ("def add(a, b):\n    raise KeyError(a)", "KeyError: 1"),
        ("def add(a, b)\n    return a", "SyntaxError: expected ':'"),
        ("I would rather not.", "SyntaxError"),
        ("```python\nwhile True: pass", "ended by the sandbox: timeout"),
        ("import os\ndef add(a, b):\n    os._exit(0)", "the program ended the process before its tests"),
    ],
)
def test_what_failed_is_mended_and_the_teacher_hears_of_it(attempt: str, error: str) -> None:
    made, generate = go(attempt, RIGHT)
    combined, refine = made
    assert isinstance(combined, Record) and isinstance(refine, Record)
    asked = generate.calls[1]
    assert [call.role for call in generate.calls] == ["student", "teacher"]
    assert generate.prompts[0] == TASK
    assert error in asked.prompt and TASK in asked.prompt
    assert (text_of(combined.prompt), text_of(refine.prompt)) == (TASK, asked.prompt)
    assert combined.completion == refine.completion
    assert text_of(combined.completion) == "```python\ndef add(a, b):\n    return a + b\n```"
    assert (combined.by, refine.by) == ("persd/combined", "persd/refine")
    assert combined.teachers == ("scripted-student", "scripted-teacher") and len(combined.replies) == 2


def test_one_format_alone() -> None:
    wrong = "def add(a, b):\n    return a - b"
    assert [r.by for r in go(wrong, RIGHT, how="combined")[0] if isinstance(r, Record)] == ["persd/combined"]
    (only,), _ = go(wrong, RIGHT, how="refine")
    assert isinstance(only, Record)
    error = 'Traceback (most recent call last):\n  File "tests.py", line 1, in <module>\n    assert add(1, 2) == 3\n'
    told = text_of(only.prompt)
    assert told.startswith(render("persd/refine", task=TASK, attempt=wrong, error=error)[:200])
    assert 0 < only.scores["closeness"] < 1


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((RIGHT,), "persd:solved"),
        (("def add(a, b): return 1", "def add(a, b): return 2"), "persd:still_wrong"),
        (("def add(a, b): return 1", "def add(a, b):\n  while True: pass"), "persd:still_wrong"),
        (("def add(a, b): return 1", "import os\nwhile True: os.fork()"), "persd:still_wrong"),
        (("def add(a, b): return 1", "import os; os._exit(0)"), "persd:still_wrong"),
        (("def add(a, b): return 1", "I cannot."), "persd:still_wrong"),
        (("def add(a, b): return 1", " "), "persd:empty"),
        (("def add(a, b): return 1", Completion(RIGHT, finish_reason="length")), "persd:cut"),
        ((Completion("def add(", finish_reason="length"),), "persd:cut"),
        (("",), "persd:empty"),
    ],
)
def test_everything_else_is_dropped_with_its_reason(answers: tuple[str | Completion, ...], expected: str) -> None:
    assert reason(go(*answers)[0]) == expected


def test_tasks_without_tests_that_can_fail_cost_nothing_more() -> None:
    assert reason(go(seed=Record(prompt=user(TASK)))[0]) == "persd:no_tests"
    assert reason(go(RIGHT, seed=Record(prompt=user(TASK), meta={"tests": "print(1)"}))[0]) == "persd:bad_tests"
    assert reason(go(RIGHT, seed=Record(prompt=user(TASK), meta={"tests": "assert ("}))[0]) == "persd:bad_tests"
    with pytest.raises(ConfigError, match='"combined", "refine" or "both"'):
        Persd(format="all")  # type: ignore[arg-type] # the mistake
