"""Task files on a model: replies are marked, choices weighed by likelihood, and what is not answered is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdaug.chat import Chat
from kdaug.errors import BadRequest, ConfigError
from kdaug.record import Messages, assistant, user
from kdaug.teachers.fake import Fake
from kdaug.teachers.local import Local
from kdaug.train.comparison import Figure, Table
from kdaug.train.generation import compare_on_tasks
from kdaug.train.tasks import Task

CAPITALS = [
    Task(user("Italy?"), ("Rome", "Roma")),
    Task(user("France?"), ("Paris",)),
    Task(user("Spain?"), ("Madrid",)),
    Task(user("Italy?"), ("Roma capitale",)),  # the same prompt with another reference
]


def only(table: Table, metric: str, row: int = 0) -> Figure:
    return table.rows[row].figures[metric]


def test_replies_are_marked_and_models_stand_side_by_side(tmp_path: Path) -> None:
    good = Fake({"Italy": "Rome.", "France": "paris", "Spain": "I do not know"})
    poor = Fake({"": "Rome"}, name="fake-poor")
    table = compare_on_tasks({"good": good, "poor": poor}, CAPITALS, "exact_match", "capitals", out=tmp_path / "run")
    assert [row.model for row in table.rows] == ["good", "poor"]
    assert only(table, "exact_match") == Figure(
        0.5, pytest.approx(0.1500, abs=1e-4), pytest.approx(0.8500, abs=1e-4), 4
    )
    assert only(table, "exact_match", 1).value == 0.25
    assert [r.sampling.temperature for r in good.calls] == [0.0] * 3  # greedy, and every prompt once


def test_rouge_is_the_mean_over_tasks_with_a_seeded_interval() -> None:
    model = Fake({"Italy": "Roma is the capital", "": "Madrid"})
    figure = only(compare_on_tasks({"m": model}, CAPITALS, "rouge_l", "capitals", seed=3), "rouge_l")
    # 2·1/(4+1) of the best reference, 0, 1, 2·1/(4+2)
    assert figure.value == pytest.approx((0.4 + 0.0 + 1.0 + 1 / 3) / 4)
    assert figure == only(compare_on_tasks({"m": model}, CAPITALS, "rouge_l", "capitals", seed=3), "rouge_l")
    assert figure.low is not None and figure.high is not None and figure.low < figure.value < figure.high


def test_a_task_that_is_not_answered_counts_as_wrong_and_is_told() -> None:
    tasks = [Task(user(f"Say {n}"), (str(n),)) for n in range(20)]
    model = Fake(
        lambda request: BadRequest("no") if request.messages[0].content == "Say 7" else request.messages[0].content[4:]
    )
    table = compare_on_tasks({"m": model}, tasks, "exact_match", "numbers")
    assert only(table, "exact_match").value == 19 / 20
    assert table.notes == ["m: 1 came to nothing (teacher:bad_request 1) and count as wrong"]


def test_what_was_asked_is_not_asked_again(tmp_path: Path) -> None:
    first, second = Fake({"": "Rome"}), Fake({"": "Rome"})
    tables = [
        compare_on_tasks({"m": m}, CAPITALS, "exact_match", "capitals", out=tmp_path / "o") for m in (first, second)
    ]
    assert len(first.calls) == 3 and second.calls == []
    assert tables[0] == tables[1]
    with pytest.raises(ConfigError, match="holds the run of another recipe"):
        compare_on_tasks({"m": Fake(name="fake-other")}, CAPITALS, "exact_match", "capitals", out=tmp_path / "o")


def test_choices_go_by_the_likelihood_of_the_answers(tiny: Path, make_model: Callable[..., Path]) -> None:
    from transformers import AutoModelForCausalLM

    choices = ("deep", "the moon is far away", "sea and sea", "x")
    prompts = [user(f"What is number {n}?") for n in range(12)]
    model, chat = AutoModelForCausalLM.from_pretrained(tiny), Chat.load(tiny)

    def plain(prompt: Messages, choice: str) -> float:
        ids, start = chat.score(prompt, assistant(choice))
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids) - 1))

    sums = [[plain(prompt, choice) for choice in choices] for prompt in prompts]
    by_sum = [row.index(max(row)) for row in sums]
    by_norm = [max(range(4), key=lambda i, row=row: row[i] / len(choices[i])) for row in sums]
    assert by_sum != by_norm  # random as it is, the model must tell the two rules apart
    tasks = [Task(prompt, choices=choices, right=right) for prompt, right in zip(prompts, by_sum, strict=True)]
    table = compare_on_tasks({"tiny": Local(str(tiny), dtype="float32")}, tasks, "choice", "things")
    assert only(table, "choice").value == 1
    assert only(table, "choice_norm").value == sum(a == b for a, b in zip(by_sum, by_norm, strict=True)) / 12


def test_an_endpoint_cannot_weigh_choices() -> None:
    with pytest.raises(ConfigError, match="fake cannot tell log-probabilities"):
        compare_on_tasks({"m": Fake()}, [Task(user("q"), choices=("a", "b"))], "choice", "x")
