"""lm-eval on a student: its figures come into our tables, and agree with our own metric on the same questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdaug.errors import ConfigError, TrainError
from kdaug.teachers.local import Local
from kdaug.train.generation import compare_on_tasks
from kdaug.train.lm_eval import compare_lm_eval
from kdaug.train.tasks import read_tasks

QUESTIONS = [
    ("Which is a fruit?", ["hammer", "apple", "cloud", "river"], 1),
    ("What do bees make?", ["milk", "honey", "bread", "paper"], 1),
    ("Which animal barks?", ["cat", "cow", "dog", "fish"], 2),
    ("How many legs does a spider have?", ["six", "four", "eight", "two"], 2),
    ("Which is the largest ocean?", ["Atlantic", "Indian", "Arctic", "Pacific"], 3),
    ("Which metal is liquid at room temperature?", ["iron", "gold", "mercury", "silver"], 2),
    ("What is the square root of 81?", ["seven", "eight", "nine", "ten"], 2),
    ("What gas do plants breathe in?", ["oxygen", "carbon dioxide", "nitrogen", "helium"], 1),
]
TASK = """
task: questions
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "choices": c, "answer": a}) + "\n" for p, c, a in QUESTIONS))
    (tmp_path / "questions.yaml").write_text(TASK.replace("FILE", str(file)))
    return tmp_path / "questions.yaml"


@pytest.mark.slow
def test_choices_are_what_lm_eval_says_they_are(task: Path) -> None:
    (theirs,) = compare_lm_eval({"smollm2": "smollm2"}, task, device="cpu", dtype="float32").rows
    tasks = read_tasks(task.with_suffix(".jsonl"), "choice")
    (ours,) = compare_on_tasks({"smollm2": Local(dtype="float32", device="cpu")}, tasks, "choice", "questions").rows
    acc, norm = theirs.figures["questions acc"], theirs.figures["questions acc_norm"]
    assert ours.figures["choice"].value == pytest.approx(acc.value)
    assert ours.figures["choice_norm"].value == pytest.approx(norm.value)
    assert acc.value != norm.value  # or the two rules would not be told apart here
    assert acc.n == len(QUESTIONS) and acc.low is not None and acc.low < acc.value


@pytest.mark.slow
def test_what_lm_eval_does_not_take_is_said_in_its_own_words(tiny: Path, task: Path) -> None:
    task.write_text(TASK.replace("FILE", "no-such-file.jsonl"))
    with pytest.raises(TrainError, match=r"lm-eval failed on .*no-such-file"):
        compare_lm_eval({"tiny": str(tiny)}, task, device="cpu")


def test_without_tasks_or_without_lm_eval_nothing_is_started(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdaug.errors.find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=r"pip install 'kdaug\[evals\]'"):
        compare_lm_eval({"tiny": str(tiny)}, tmp_path)
    monkeypatch.setattr("kdaug.errors.find_spec", lambda module: object())
    for nothing in (tmp_path, tmp_path / "no.yaml"):
        with pytest.raises(ConfigError, match="no task of lm-eval there"):
            compare_lm_eval({"tiny": str(tiny)}, nothing)
