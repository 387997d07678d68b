"""Evaluation: likelihood by the model's own words, and the distance to a teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdaug.chat import Chat
from kdaug.errors import ConfigError
from kdaug.record import Record, assistant, user
from kdaug.train.batching import IGNORE, encode
from kdaug.train.evaluate import compare_held_out, evaluate


def test_a_model_is_its_own_perfect_student(tiny: Path, answers: list[Record]) -> None:
    found = evaluate(tiny, answers, teacher=tiny, length=256)
    assert found.kl == pytest.approx(0, abs=1e-7)
    assert found.top1 == 1
    assert found.records == 24


def test_it_agrees_with_the_plain_computation(
    tiny: Path, answers: list[Record], tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    from transformers import AutoModelForCausalLM

    other = make_model(tmp_path / "teacher", seed=1, layers=3)
    found = evaluate(tiny, answers, teacher=other, length=256)
    chat = Chat.load(tiny)
    student, teacher = (AutoModelForCausalLM.from_pretrained(m) for m in (tiny, other))
    nll, kl, same, count = 0.0, 0.0, 0, 0
    for (d,) in encode(answers, "completion", chat, 256).documents:
        ids, targets = torch.tensor([list(d.ids)]), torch.tensor(list(d.targets))
        wanted = targets != IGNORE
        vocabulary = len(chat.tokenizer)
        with torch.no_grad():
            q = student(ids).logits[0, wanted, :vocabulary].log_softmax(-1)
            p = teacher(ids).logits[0, wanted, :vocabulary].log_softmax(-1)
        nll -= q.gather(1, targets[wanted][:, None]).sum().item()
        kl += torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum").item()
        same += int((q.argmax(-1) == p.argmax(-1)).sum())
        count += int(wanted.sum())
    assert found.tokens == count
    assert found.nll == pytest.approx(nll / count, rel=1e-4)
    assert found.kl == pytest.approx(kl / count, rel=1e-3)
    assert found.top1 == pytest.approx(same / count, abs=1.5 / count)


def test_without_a_teacher_there_is_only_the_likelihood(tiny: Path, answers: list[Record]) -> None:
    found = evaluate(tiny, answers)
    assert (found.kl, found.top1) == (None, None)
    assert found.perplexity > 1


def test_a_teacher_of_another_vocabulary_is_an_error(
    tiny: Path, answers: list[Record], tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    from transformers import AutoTokenizer

    other = make_model(tmp_path / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ConfigError, match=r"different vocabularies .*1 entries differ"):
        evaluate(tiny, answers, teacher=other)


def test_prompts_without_answers_cannot_judge(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="generate answers first"):
        evaluate(tiny, [Record(prompt=user("q"))])


def test_what_was_cut_is_named(tiny: Path, answers: list[Record]) -> None:
    long = Record(prompt=user("q"), completion=assistant("deep " * 300))
    assert evaluate(tiny, [*answers, long], length=128).truncated == (long.id,)


def test_models_are_compared_record_by_record_and_beside_their_teacher(
    tiny: Path, answers: list[Record], tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    other = str(make_model(tmp_path / "other", seed=1))
    table = compare_held_out({"tiny": str(tiny), "other": other}, answers, "answers", teacher=other, length=256)
    assert [(row.model, row.role) for row in table.rows] == [("tiny", ""), ("other", ""), ("other", "teacher")]
    student, itself, teacher = (row.figures for row in table.rows)
    found = evaluate(tiny, answers, teacher=other, length=256)
    assert student["nll"].value == found.nll and student["kl"].value == found.kl
    assert itself["kl"].value == pytest.approx(0, abs=1e-7) and itself["top1"].value == 1
    assert teacher.keys() == {"nll"} and teacher["nll"] == itself["nll"]
    low, high = student["nll"].low, student["nll"].high
    assert low is not None and high is not None and low < found.nll < high
    assert sum(judged.nll for judged in found.by_record) / found.tokens == pytest.approx(found.nll)
    one = evaluate(tiny, answers[5:6], teacher=other, length=256)
    assert one.by_record[0] == pytest.approx(found.by_record[5], rel=1e-4)
    assert table.notes == []


def test_models_of_different_vocabularies_are_not_to_be_compared_by_the_token(
    tiny: Path, answers: list[Record], tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    from transformers import AutoTokenizer

    other = make_model(tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(other)
    table = compare_held_out({"tiny": str(tiny), "other": str(other)}, answers, "answers", length=256)
    assert table.notes == ["the models have different vocabularies, so their NLL a token is not to be compared"]
