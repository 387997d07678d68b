"""Before the first step: what is said is true, and nothing of the training is changed by it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdaug.chat import Chat
from kdaug.cli import main
from kdaug.record import Record
from kdaug.train.batching import encode
from kdaug.train.memory import peak_of
from kdaug.train.sft import SFT
from kdaug.train.vocabularies import compare_vocabularies

FAST = SFT(epochs=2, lr=3e-3, length=128, accumulate=2)


def test_it_says_data_steps_memory_time_and_terms(
    tiny: Path, answers: list[Record], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = [replace(r, teachers=("openai/gpt-4o", "Qwen/Qwen3-8B")) for r in answers]
    with caplog.at_level(logging.INFO, logger="kdaug"):
        FAST.fit(told, student=tiny, out=out)
    said = {line.partition(":")[0]: line for line in caplog.messages}
    encoded = encode(answers, "completion", Chat.load(tiny), 128)
    share = f"{encoded.trained / encoded.tokens:.0%}"
    assert said["data"] == f"data: 24 records, {encoded.tokens:,} tokens, {share} of them trained"
    steps = len((out / "metrics.jsonl").read_text().splitlines())
    assert said["steps"] == f"steps: {steps} (2 epochs of {steps // 2})"
    assert said["student"].startswith("student: all 27,744 weights") and said["student"].endswith("on cpu")
    assert "GB" in said["memory"] and "tokens/s" in said["time"]
    assert any("gpt-4o: OpenAI terms of use" in line for line in caplog.messages)
    assert any("Qwen3-8B: apache-2.0" in line for line in caplog.messages)


def test_a_dry_run_stops_there(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"q{n}", "completion": "Yes."}) + "\n" for n in range(9)))
    command = ["train", "sft", "--data", str(data), "--student", str(tiny), "--out", str(tmp_path / "out")]
    assert main([*command, "--length", "64", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "9 records" in said.err and "memory: about" in said.err and "step 1" not in said.err
    assert said.out == ""
    assert not (tmp_path / "out").exists()
    assert main([*command, "--length", "64"]) == 0  # nothing is in its way
    assert "step 1/" in capsys.readouterr().err


def test_the_peak_is_that_of_what_lives_at_one_time() -> None:
    there = torch.zeros(1000)

    def work() -> None:
        one = there + 1  # 4000 bytes
        two = one + 1  # 8000 at one time
        del one
        two.view(10, 100).mul_(2)  # nothing new
        (two + 1).sum()  # 8004

    assert peak_of(work, "cpu", [there]) == 8004


def test_what_the_backward_pass_holds_is_seen() -> None:
    weight = torch.ones(1000, requires_grad=True)

    def work() -> None:
        weight.exp().sum().backward()  # what is kept of exp, and the gradient: 4000 bytes each; two scalars

    assert peak_of(work, "cpu", [weight]) == 8008


def test_vocabularies_are_compared(
    tmp_path: Path, tiny: Path, make_model: Callable[..., Path], make_tokenizer: Callable[..., object]
) -> None:
    same = compare_vocabularies(tiny, tiny)
    assert same.same and "equal" in same.says and "every loss" in same.says

    padded = make_model(tmp_path / "padded")
    config = json.loads((padded / "config.json").read_text())
    (padded / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 64}))
    found = compare_vocabularies(tiny, padded)
    assert found.same and "the rows beyond the tokens are left out" in found.says

    other = make_model(tmp_path / "other")
    body = json.loads((other / "tokenizer.json").read_text())
    vocab = body["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(body))
    found = compare_vocabularies(tiny, other)
    assert (found.same, found.shared) == (False, found.student - 2)
    assert "only losses across tokenizers" in found.says
