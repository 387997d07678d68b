"""SFT and DPO take the steps that TRL takes: the same tokens, order and settings give the same loss at every step.

Both compute in float32. What differs is the order of sums (packed or padded rows, heads in chunks), which Adam's first
steps enlarge: the losses stay within 1e-4 nats for some ten steps, at rates at which they fall fast.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kdaug.chat import Chat
from kdaug.record import Record
from kdaug.train.batching import IGNORE, encode
from kdaug.train.preference import DPO
from kdaug.train.sft import SFT
from kdaug.train.student import load

pytestmark = pytest.mark.slow
TOLERANCE = 1e-4
SAME: dict[str, Any] = {"epochs": 1, "length": 256, "accumulate": 2, "warmup": 0.0, "floor": 1.0, "dtype": "float32"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def how_of_trl(out: Path, lr: float, batch: int) -> dict[str, Any]:
    return {
        "output_dir": str(out),
        "use_cpu": True,
        "bf16": False,
        "seed": 0,
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 2,
        "learning_rate": lr,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def model_of(folder: Path) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return {"model": model, "processing_class": AutoTokenizer.from_pretrained(folder)}


def in_order(units: list[Any], epochs: int) -> list[Any]:
    """As kdaug takes them in its first epochs."""
    taken = []
    for epoch in range(epochs):
        order = list(range(len(units)))
        Random(f"0/{epoch}").shuffle(order)
        taken += [units[i] for i in order]
    return taken


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trained(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_sft_follows_trl(tiny: Path, answers: list[Record], tmp_path: Path) -> None:
    import trl
    from datasets import Dataset

    chat, length = Chat.load(tiny), 96
    documents = [d for (d,) in encode(answers, "completion", chat, length).documents]
    plan = load(tiny, chat, "cpu", "float32").plan([len(d) for d in documents], length)
    held = in_order([[documents[i] for i in row] for row in plan], 1)
    rows = [
        {
            "input_ids": [t for d in row for t in d.ids],
            "labels": [label for d in row for label in (IGNORE, *d.targets[:-1])],
            "seq_lengths": [len(d) for d in row],
        }
        for row in held
    ]
    packed = {"padding_free": True, "max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    args = trl.SFTConfig(**how_of_trl(tmp_path / "trl", 3e-3, 1), **packed)
    theirs = trained(trl.SFTTrainer(args=args, train_dataset=Dataset.from_list(rows), **model_of(tiny)))
    SFT(**SAME | {"length": length}, lr=3e-3, batch=1).fit(answers, student=tiny, out=tmp_path / "kdaug")
    ours = losses(tmp_path / "kdaug")
    assert len(ours) > 6
    assert ours[-1] < ours[0] - 1
    assert ours == pytest.approx(theirs, abs=TOLERANCE)


def test_dpo_follows_trl(tiny: Path, pairs: list[Record], tmp_path: Path) -> None:
    import trl
    from datasets import Dataset

    chat = Chat.load(tiny)
    rows = []
    for pair in pairs:
        prompt = chat.render(pair.prompt, ask=True)
        texts = [chat.speak(pair.prompt, said or ()).text.rstrip() for said in (pair.completion, pair.rejected)]
        chosen, rejected = (text.removeprefix(prompt) for text in texts)
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    args = trl.DPOConfig(**how_of_trl(tmp_path / "trl", 1e-3, 2), precompute_ref_log_probs=True, max_length=256)
    data = Dataset.from_list(in_order(rows, 3))
    theirs = trained(trl.DPOTrainer(args=args, train_dataset=data, **model_of(tiny)))
    DPO(**SAME | {"epochs": 3}, lr=1e-3, batch=2).fit(pairs, student=tiny, out=tmp_path / "kdaug")
    ours = losses(tmp_path / "kdaug")
    assert len(ours) == 9
    assert ours[-1] < ours[0] - 0.05
    assert ours == pytest.approx(theirs, abs=TOLERANCE)
