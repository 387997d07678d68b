"""Unit tests and solutions that a teacher wrote apart: what agrees is kept, what cannot fail is not."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from engines import need_sandbox
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError, ParseError
from kdaug.generators.unit_tests import UnitTests, consensus, split_tests
from kdaug.programs import Trial
from kdaug.record import Discarded, Record, assistant, text_of, user
from kdaug.teacher import Completion

TASK = "Write `double(x)`."
TESTS = """Here are the tests:
```python
import math
from solution import double

CASES = [1, 2]

def test_one():
    assert double(1) == 2

def test_cases():
    for case in CASES:
        assert double(case) == 2 * case

def test_wrong():
    assert double(2) == 5

if __name__ == "__main__":
    test_wrong()
```"""
GOOD = "```python\ndef double(x):\n    return 2 * x\n```"
ODD = "```python\ndef double(x):\n    return 5 if x == 2 else 0\n```"


@pytest.fixture
def _allowed() -> None:
    need_sandbox()


def go(*answers: str | Completion, completion: str | None = None, samples: int = 4) -> list[Record | Discarded]:
    seed = Record(prompt=user(TASK), completion=None if completion is None else assistant(completion))
    return list(asyncio.run(UnitTests(cpu=1, samples=samples)([seed], Scripted(in_turn(*answers)), Random(0))))


@pytest.mark.usefixtures("_allowed")
def test_the_largest_agreement_of_solutions_and_tests_wins() -> None:
    loop = "def double(x):\n  while True: pass"
    made, *others = go(
        TESTS, ODD, GOOD, loop, GOOD + " \n# again", Completion("def", finish_reason="length"), samples=5
    )
    assert isinstance(made, Record)
    assert text_of(made.completion) == GOOD
    assert text_of(made.prompt) == TASK
    tests = made.meta["tests"]
    assert isinstance(tests, list) and len(tests) == 3  # what stands around, and two that agree
    assert tests[0] == "import math\nfrom solution import double\nCASES = [1, 2]"
    assert "test_wrong" not in "".join(map(str, tests))
    assert made.scores == {"tests": pytest.approx(2 / 3)}
    assert len(made.replies) == 2
    assert [o.drop.reason for o in others if isinstance(o, Discarded)] == ["unit_tests:cut"]


@pytest.mark.usefixtures("_allowed")
def test_a_given_solution_is_kept_and_nobody_is_asked_for_another() -> None:
    (made,) = go(TESTS, completion=f"Look:\n{GOOD}")
    assert isinstance(made, Record) and text_of(made.completion) == f"Look:\n{GOOD}"
    (made,) = go(TESTS, completion=ODD)
    assert isinstance(made, Discarded) and made.drop.reason == "unit_tests:inconsistent"
    assert made.drop.detail["agreed"] == ["test_wrong"]


@pytest.mark.usefixtures("_allowed")
def test_what_agrees_on_nothing_is_dropped_with_all_that_was_seen() -> None:
    (made,) = go(TESTS, "def double(x): return 0", "1 / 0", samples=2)
    assert isinstance(made, Discarded) and made.drop.reason == "unit_tests:inconsistent"
    trials = made.drop.detail["trials"]
    assert isinstance(trials, list) and [t["wrong"] for t in trials if isinstance(t, dict)] == ["failed", "failed"]


def test_replies_without_tests_and_fields_that_make_none() -> None:
    for reply in (
        "Sure!",
        "```python\nassert double(1) == 2\n```",
        "```python\ndef test_(:\n```",
        "def helper(): pass",
    ):
        with pytest.raises(ParseError, match="the reply has no tests"):
            split_tests(reply)
    (made,) = go(Completion(TESTS, finish_reason="length"))
    assert isinstance(made, Discarded) and made.drop.reason == "unit_tests:cut"
    with pytest.raises(ConfigError, match="min_tests 6 must be from 1 to count 5"):
        UnitTests(min_tests=6)


def test_the_first_of_equal_groups_is_taken() -> None:
    one, other = Trial("failed", ran=2, failed={"b": "x"}), Trial("failed", ran=2, failed={"a": "x"})
    assert consensus(["a", "b"], [other, one]) == (["b"], 0)
    assert consensus(["a", "b"], [other, one, one]) == (["a"], 1)
    assert consensus(["a", "b"], [other, Trial(None, ran=2), one]) == (["a", "b"], 1)
    assert consensus(["a", "b"], [Trial("timeout")]) == ([], 0)
    assert consensus(["a"], []) == ([], 0)
