"""LoRA and DoRA: little is trained, the student is a plain model, and resuming is as exact as without."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdaug.chat import Chat
from kdaug.errors import ConfigError, Interrupted
from kdaug.models import find_adapter
from kdaug.record import Record
from kdaug.train.batching import encode
from kdaug.train.evaluate import evaluate
from kdaug.train.loop import Step
from kdaug.train.preference import DPO
from kdaug.train.sft import SFT
from kdaug.train.student import load

FAST = SFT(epochs=2, lr=1e-2, length=128, accumulate=2, lora_rank=4, lora_alpha=8, lora_dropout=0.1)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("dora", [False, True])
def test_the_student_is_a_plain_model_and_equals_its_adapter_on_the_base(
    tiny: Path, answers: list[Record], out: Path, dora: bool
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    replace(FAST, dora=dora).fit(answers, student=tiny, out=out)
    assert evaluate(out, answers, length=128).nll < evaluate(tiny, answers, length=128).nll - 0.3
    before, after = load_file(tiny / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    adapter = find_adapter(str(out / "adapter"))  # what a teacher's `lora=` takes
    ids = torch.tensor([encode(answers[:1], "completion", Chat.load(tiny), 128).documents[0][0].ids.tolist()])
    merged, base = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, tiny))
    beside = PeftModel.from_pretrained(base, adapter.path)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, beside(ids).logits, atol=1e-4, rtol=1e-4)
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny)


def test_an_interrupted_training_goes_on_exactly(tiny: Path, answers: list[Record], tmp_path: Path) -> None:
    how = replace(FAST, ema=0.8)
    how.fit(answers, student=tiny, out=tmp_path / "whole")

    def interrupt(step: Step) -> None:
        if step.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        how.fit(answers, student=tiny, out=tmp_path / "parts", on_step=interrupt)
    saved = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert all("lora_" in name for name in saved["weights"])
    how.fit(answers, student=tiny, out=tmp_path / "parts")
    assert [m["loss"] for m in metrics(tmp_path / "parts")] == [m["loss"] for m in metrics(tmp_path / "whole")]
    whole, parts = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_reference_of_dpo_is_the_student_without_its_adapter(tiny: Path, pairs: list[Record], out: Path) -> None:
    DPO(epochs=4, lr=1e-2, length=256, batch=2, accumulate=3, lora_rank=4).fit(pairs, student=tiny, out=out)
    first, *_, last = metrics(out)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    chat = Chat.load(tiny)
    chosen, rejected = zip(*encode(pairs, "preference", chat, 256).documents, strict=True)
    new, old = load(out, chat, "cpu"), load(tiny, chat, "cpu")
    gained = [(new.sums(side, 256) - old.sums(side, 256)).mean().item() for side in (chosen, rejected)]
    assert gained[0] - gained[1] > 1
    assert last["margin"] > 1


def test_layers_that_are_not_there_are_named(tiny: Path, answers: list[Record], out: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora_targets='query,key': .*query"):
        replace(FAST, lora_targets="query,key").fit(answers, student=tiny, out=out)


def test_dora_needs_a_rank() -> None:
    with pytest.raises(ConfigError, match="needs lora_rank"):
        SFT(dora=True)
