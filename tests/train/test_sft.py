"""Fine-tuning: it learns, it resumes exactly, and its folder opens with transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdaug.dataset import Dataset, write_dataset
from kdaug.errors import ConfigError, TrainError
from kdaug.models import find_model
from kdaug.record import Record, assistant, user
from kdaug.train.evaluate import evaluate
from kdaug.train.loop import Step
from kdaug.train.sft import SFT
from kdaug.train.training import rate

FAST = SFT(epochs=2, lr=3e-3, length=128, accumulate=2)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_student_learns_its_data_and_opens_with_transformers(tiny: Path, answers: list[Record], out: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    told: list[Step] = []
    assert FAST.fit(answers, student=tiny, out=out, on_step=told.append) == out
    assert [s.step for s in told] == list(range(1, told[-1].steps + 1))
    assert told[-1].loss < told[0].loss - 1
    assert losses(out) == [s.loss for s in told]
    assert evaluate(out, answers, length=128).nll < evaluate(tiny, answers, length=128).nll - 1
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float32  # as the student came
    assert AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(tiny).chat_template
    assert {f.name for f in out.iterdir()} == {
        *("README.md", "chat_template.jinja", "config.json", "generation_config.json", "loss.png", "metrics.jsonl"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"),
    }
    about = json.loads((out / "training.json").read_text())
    assert (about["status"], about["records"], about["teachers"]) == ("finished", 24, ["fake:echo"])
    assert about["facts"]["lr"] == 3e-3
    assert "`fake:echo`" in (out / "README.md").read_text()
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_training_is_not_repeated(tiny: Path, answers: list[Record], out: Path) -> None:
    FAST.fit(answers, student=tiny, out=out)
    before = (out / "model.safetensors").stat().st_mtime_ns
    FAST.fit(answers, student=tiny, out=out, on_step=lambda step: pytest.fail("it trained again"))
    assert (out / "model.safetensors").stat().st_mtime_ns == before


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, answers: list[Record], make_model: Callable[..., Path]
) -> None:
    student = make_model(tmp_path / "student", attention_dropout=0.2)  # so that the random state counts
    FAST.fit(answers, student=student, out=tmp_path / "whole")

    def interrupt_at(last: int) -> Callable[[Step], None]:
        def on_step(step: Step) -> None:
            if step.step == last:
                raise KeyboardInterrupt

        return on_step

    for last in (2, 6):
        with pytest.raises(KeyboardInterrupt):
            FAST.fit(answers, student=student, out=tmp_path / "parts", on_step=interrupt_at(last))
        assert json.loads((tmp_path / "parts" / "training.json").read_text())["status"] == "running"
    FAST.fit(answers, student=student, out=tmp_path / "parts")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "parts")[name], value, atol=1e-5, rtol=1e-4)


def test_a_kill_costs_only_the_steps_since_the_checkpoint(tiny: Path, answers: list[Record], tmp_path: Path) -> None:
    FAST.fit(answers, student=tiny, out=tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(step: Step) -> None:
        if step.step == 8:
            raise Killed

    often = replace(FAST, save_every=3)
    with pytest.raises(Killed):
        often.fit(answers, student=tiny, out=tmp_path / "parts", on_step=kill)
    assert len(losses(tmp_path / "parts")) == 8
    again: list[int] = []
    often.fit(answers, student=tiny, out=tmp_path / "parts", on_step=lambda step: again.append(step.step))
    assert again[0] == 7
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_a_step_is_the_same_however_it_is_split(tiny: Path, answers: list[Record], tmp_path: Path) -> None:
    once = replace(FAST, epochs=1, dtype="float32")
    replace(once, batch=1, accumulate=4).fit(answers, student=tiny, out=tmp_path / "four")
    replace(once, batch=4, accumulate=1).fit(answers, student=tiny, out=tmp_path / "one")
    thrifty = replace(once, batch=2, accumulate=2, gradient_checkpointing=True)
    thrifty.fit(answers, student=tiny, out=tmp_path / "two")
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    for name, value in weights(tmp_path / "four").items():
        torch.testing.assert_close(weights(tmp_path / "one")[name], value, atol=1e-4, rtol=1e-3)


def test_the_loss_is_the_mean_over_tokens_of_the_whole_step(tiny: Path, answers: list[Record], out: Path) -> None:
    # One step over all the data: its loss, taken before the update, is what evaluation says of the untrained student.
    once = SFT(epochs=1, length=128, batch=1, accumulate=1000)
    once.fit(answers, student=tiny, out=out)
    (first,) = losses(out)
    # Evaluation leaves out the head's three padded rows, so it is not quite the same.
    assert first == pytest.approx(evaluate(tiny, answers, length=128).nll, abs=0.05)


def test_another_training_in_the_folder_is_an_error_that_says_what_differs(
    tiny: Path, answers: list[Record], out: Path
) -> None:
    FAST.fit(answers, student=tiny, out=out)
    with pytest.raises(ConfigError, match=r"lr: 0\.003 before, 0\.001 now"):
        replace(FAST, lr=1e-3).fit(answers, student=tiny, out=out)
    with pytest.raises(ConfigError, match="data:"):
        FAST.fit(answers[1:], student=tiny, out=out)
    replace(FAST, save_every=7, device="cpu").fit(answers, student=tiny, out=out)  # these change no result


def test_a_foreign_model_in_the_folder_is_not_overwritten(tiny: Path, answers: list[Record]) -> None:
    with pytest.raises(ConfigError, match="holds other files"):
        FAST.fit(answers, student=tiny, out=tiny)


def test_the_held_out_split_of_a_dataset_is_not_trained_on(tiny: Path, answers: list[Record], tmp_path: Path) -> None:
    held_out = {answers[0].id, answers[1].id}
    write_dataset(tmp_path / "data", lambda: answers, held_out=held_out, facts={})
    data = Dataset(tmp_path / "data")
    FAST.fit(data, student=tiny, out=tmp_path / "model")
    about = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (about["records"], about["data"]) == (22, {"source": str(tmp_path / "data"), "split": "train"})
    assert evaluate(tiny, data, length=128).records == 2


@pytest.mark.parametrize(
    ("how", "wrong"),
    [
        ({"lr": -1.0}, "lr=-1.0"),
        ({"epochs": 0}, "epochs=0"),
        ({"warmup": 1.5}, "warmup=1.5"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"length": 1}, "length"),
    ],
)
def test_wrong_settings_are_errors_that_name_them(
    tiny: Path, answers: list[Record], out: Path, how: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        replace(FAST, **how).fit(answers, student=tiny, out=out)
    assert not out.exists()


def test_a_loss_that_is_no_number_stops_the_training(tiny: Path, answers: list[Record], out: Path) -> None:
    with pytest.raises(TrainError, match="use a lower lr"):
        replace(FAST, lr=1e30, warmup=0).fit(answers, student=tiny, out=out)


def test_the_learning_rate_rises_and_falls() -> None:
    how = SFT(lr=1.0, warmup=0.1, floor=0.1)
    rates = [rate(how, step, 100) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[54] == pytest.approx(0.55)  # halfway down the cosine
    assert rates[99] == pytest.approx(0.1)
    assert rate(SFT(lr=1.0, warmup=0.0), 1, 1) == pytest.approx(0.1)


def test_few_steps_are_warned_of(
    tiny: Path, answers: list[Record], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    SFT(length=512).fit(answers, student=tiny, out=out)
    assert "only 3 steps" in caplog.text


@pytest.mark.slow
def test_the_shipped_student_learns_from_a_few_steps(out: Path) -> None:
    records = [
        Record(prompt=user(f"What is {n} and {n}?"), completion=assistant(f"Together they are {2 * n}."))
        for n in range(14)
    ]
    how = SFT(epochs=1, lr=2e-4, length=128, accumulate=1)
    how.fit(records[:10], student=find_model().path, out=out)
    before, after = (evaluate(model, records[10:], length=128) for model in (find_model().path, out))
    assert after.nll < before.nll - 0.5
