"""Task files and marks: what is read, what is refused, and what a reply is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from kdaug.errors import ConfigError
from kdaug.record import user
from kdaug.train.tasks import answer, exact_match, normalised, read_tasks, rouge_l


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "tasks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_references_stand_in_the_completion_or_in_the_answer(tmp_path: Path) -> None:
    rows = (
        {"prompt": "2 + 3?", "completion": "5"},
        {"prompt": "The capital of Italy?", "answer": ["Rome", "Roma"]},
        {"prompt": "7 times 6?", "answer": 42},
    )
    tasks = read_tasks(written(tmp_path, *rows), "exact_match")
    assert [task.references for task in tasks] == [("5",), ("Rome", "Roma"), ("42",)]
    assert tasks[1].prompt == user("The capital of Italy?")


@pytest.mark.parametrize("answer", [1, "b", "B", "cork"])
def test_the_right_choice_is_named_by_its_place_its_letter_or_its_text(tmp_path: Path, answer: int | str) -> None:
    row = {"prompt": "Which floats?", "choices": ["stone", "cork"], "answer": answer}
    (task,) = read_tasks(written(tmp_path, row), "choice")
    assert (task.right, task.good) == (1, ("cork",))


@pytest.mark.parametrize("metric", ["exact_match", "answer", "rouge_l"])
def test_under_another_metric_a_reply_is_held_against_the_text_of_the_right_choice(tmp_path: Path, metric: str) -> None:
    choices = ["stone", "cork"]
    answers = [1, "B", "cork", ["cork", "a cork"]]
    rows = [{"prompt": "Which floats?", "choices": choices, "answer": answer} for answer in answers]
    tasks = read_tasks(written(tmp_path, *rows), metric)
    assert [task.good for task in tasks] == [("cork",), ("cork",), ("cork",), ("cork", "a cork")]
    with pytest.raises(ConfigError, match=r'"answer" is 2: .*0 to 1'):
        read_tasks(written(tmp_path, {"prompt": "q", "choices": choices, "answer": 2}), metric)


@pytest.mark.parametrize(
    ("row", "metric", "wrong"),
    [
        ({"prompt": "q"}, "exact_match", r"tasks\.jsonl:1: no reference .*give a \"completion\""),
        ({"prompt": "q", "answer": "  "}, "rouge_l", r"tasks\.jsonl:1: no reference"),
        ({"prompt": "q", "answer": 0}, "choice", r"tasks\.jsonl:1: no \"choices\""),
        ({"prompt": "q", "choices": ["a"], "answer": 0}, "choice", "two texts or more"),
        ({"prompt": "q", "choices": ["a", "b"], "answer": 2}, "choice", r"\"answer\" is 2: .*0 to 1"),
        ({"prompt": "q", "choices": ["a", "b"]}, "choice", r"\"answer\" is None"),
        ({"question": "q", "answer": "a"}, "exact_match", "no shape has them"),
        (
            {"prompt": "q", "completion": "a"},
            "bleu",
            "no metric 'bleu': there are exact_match, answer, rouge_l, choice",
        ),
    ],
)
def test_what_a_task_lacks_is_said_with_its_place(tmp_path: Path, row: dict[str, Any], metric: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        read_tasks(written(tmp_path, row), metric)


def test_exact_match_forgives_form_and_nothing_else() -> None:
    assert normalised("  “The  Answer”. ") == "the answer"
    assert exact_match("**Rome**.", ["Milan", "rome"]) == 1
    assert exact_match("Ｒｏｍｅ", ["Rome"]) == 1  # full width
    # What changes the answer is not forgiven: a sign, a point within a number, another word.
    assert exact_match("-5", ["5"]) == 0
    assert exact_match("35", ["3.5"]) == 0
    assert exact_match("It is Rome", ["Rome"]) == 0
    assert exact_match("", ["Rome"]) == 0


def test_answer_looks_at_what_a_reply_ends_in() -> None:
    assert answer("5 + 5 is 10, so:\nAnswer: 10.0", ["#### 10"]) == 1
    assert answer("The answer is **Rome**.", ["Milan", "rome"]) == 1
    assert answer("10 is not the answer. Answer: 11", ["10"]) == 0
    assert answer("", ["10"]) == 0


def test_rouge_l_is_rouge_scores(tmp_path: Path) -> None:
    scorer = RougeScorer(["rougeL"])
    pairs = [
        ("the cat sat on the mat", "the mat is what the cat sat on"),
        ("a b c d", "d c b a"),
        ("One, two!", "one two three"),
        ("nothing", "in common"),
        ("", "something"),
    ]
    for reply, reference in pairs:
        assert rouge_l(reply, [reference]) == pytest.approx(scorer.score(reference, reply)["rougeL"].fmeasure)
    assert rouge_l("the cat", ["a dog", "the cat"]) == 1
