"""The reward model: it learns which answer was preferred, and others read the same score where it was trained."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdaug.dataset import Dataset, write_dataset
from kdaug.errors import ConfigError
from kdaug.gate import Prepared
from kdaug.gates.reward import Reward
from kdaug.record import Record, assistant, user
from kdaug.train.loop import Step
from kdaug.train.reward import RewardModel

FAST = RewardModel(epochs=6, lr=1e-3, length=256, batch=2, accumulate=2, dtype="float32")


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def gated(model: Path, records: list[Record]) -> list[Record]:
    """The records as kdaug's gate scores them."""
    gate = Reward(str(model), device="cpu").start([])

    async def each() -> list[Prepared]:
        return [await gate.prepare(record, None) for record in records]  # type: ignore[arg-type]  # it asks nobody

    return [prepared.record for prepared in asyncio.run(each())]


def test_it_learns_and_the_gate_scores_with_it(tiny: Path, pairs: list[Record], out: Path) -> None:
    told: list[Step] = []
    FAST.fit(pairs[:8], student=tiny, out=out, on_step=told.append)
    assert told[-1].loss < told[0].loss / 2
    assert told[-1].more["accuracy"] == 1
    assert told[-1].more["margin"] == pytest.approx(told[-1].more["chosen"] - told[-1].more["rejected"], abs=1e-4)
    assert "AutoModelForSequenceClassification" in (out / "README.md").read_text()
    held_out = gated(out, pairs[8:])  # of other prompts than those trained on
    assert all(record.scores["reward_margin"] > 0 for record in held_out)


@pytest.mark.parametrize("ending", ["<|im_end|>\n", "<|im_end|>"])
def test_transformers_reads_the_score_that_was_trained(
    ending: str, pairs: list[Record], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    # In the second template a conversation ends with the token that the tokenizer pads with.
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    student = make_model(tmp_path / "student")
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|im_end|>' + '\n'", repr(ending))
    tokenizer.save_pretrained(student)
    first = replace(FAST, epochs=1, batch=12, accumulate=1, lr=0.0)
    first.fit(pairs, student=student, out=tmp_path / "model")  # at a rate of 0: as it was before its first step
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.num_labels == 1
    sums = {}
    for side in ("completion", "rejected"):
        turns = [[m.to_json() for m in (*pair.prompt, *getattr(pair, side))] for pair in pairs]
        texts = [tokenizer.apply_chat_template(t, tokenize=False) for t in turns]
        batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        with torch.no_grad():
            sums[side] = model(**batch).logits.mean().item()
    (step,) = metrics(tmp_path / "model")
    assert step["chosen"] == pytest.approx(sums["completion"], abs=1e-4)
    assert step["rejected"] == pytest.approx(sums["rejected"], abs=1e-4)
    scored = gated(tmp_path / "model", pairs)
    assert sum(r.scores["reward"] for r in scored) / len(scored) == pytest.approx(step["chosen"], abs=1e-3)


def test_pairs_in_one_batch_or_apart_are_the_same(tiny: Path, pairs: list[Record], tmp_path: Path) -> None:
    once = replace(FAST, epochs=1)
    replace(once, batch=6, accumulate=1).fit(pairs, student=tiny, out=tmp_path / "one")
    replace(once, batch=1, accumulate=6).fit(pairs, student=tiny, out=tmp_path / "six")
    for one, six in zip(metrics(tmp_path / "one"), metrics(tmp_path / "six"), strict=True):
        assert six["loss"] == pytest.approx(one["loss"], abs=1e-5)


def test_an_interrupted_training_goes_on_from_the_same_head(tiny: Path, pairs: list[Record], tmp_path: Path) -> None:
    FAST.fit(pairs, student=tiny, out=tmp_path / "whole")

    def interrupt(step: Step) -> None:
        if step.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FAST.fit(pairs, student=tiny, out=tmp_path / "parts", on_step=interrupt)
    FAST.fit(pairs, student=tiny, out=tmp_path / "parts")
    for part, whole in zip(metrics(tmp_path / "parts"), metrics(tmp_path / "whole"), strict=True):
        assert part["loss"] == pytest.approx(whole["loss"], abs=1e-5)


def test_margins_and_soft_labels_are_scores_of_the_records(tiny: Path, pairs: list[Record], tmp_path: Path) -> None:
    def first_loss(name: str, records: list[Record], **how: Any) -> float:
        once: dict[str, Any] = {"epochs": 1, "batch": 12, "accumulate": 1}
        replace(FAST, **once, **how).fit(records, student=tiny, out=tmp_path / name)
        return metrics(tmp_path / name)[0]["loss"]

    plain = first_loss("plain", pairs)
    sure = [record.scored(probability=1.0, apart=0.0) for record in pairs]
    assert first_loss("soft", sure, soft="probability") == pytest.approx(plain, abs=1e-5)
    assert first_loss("none", sure, margin="apart") == pytest.approx(plain, abs=1e-5)
    apart = [record.scored(apart=1.0) for record in pairs]
    assert first_loss("wide", apart, margin="apart") > plain + 0.3
    assert first_loss("centred", pairs, centring=1.0) > plain
    with pytest.raises(ConfigError, match="its score 'apart' is -1: a margin is 0 or more"):
        first_loss("negative", [pairs[0].scored(apart=-1.0), *apart[1:]], margin="apart", dry_run=True)
    with pytest.raises(ConfigError, match=r"its score 'sure' is 1\.8: a probability is 0 to 1"):
        first_loss("unsure", [record.scored(sure=1.8) for record in pairs], soft="sure", dry_run=True)
    with pytest.raises(ConfigError, match="has no scores: a gate that judges gives them"):
        first_loss("missing", pairs, margin="apart")
    with pytest.raises(ConfigError, match="soft labels"):
        replace(FAST, soft="probability", centring=0.1)


def test_the_docs_python(
    tiny: Path, pairs: list[Record], answers: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands there, but for shorter rows."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "kd.RewardModel" in block]
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("runs/pairs"), lambda: pairs, facts={})
    write_dataset(Path("runs/alpaca"), lambda: answers, held_out={a.id for a in answers[:6]}, facts={})
    Path("models").mkdir()
    Path("models/sft").symlink_to(tiny)
    seen: dict[str, Any] = {}
    exec(code.replace("epochs=1", "epochs=1, length=256").replace('"simpo")', '"simpo", length=256)'), seen)
    assert seen["found"].records == 6 and seen["found"].kl >= 0
    assert (tmp_path / "models" / "reward" / "model.safetensors").is_file()


def test_with_lora_the_score_is_trained_as_a_whole(tiny: Path, pairs: list[Record], out: Path) -> None:
    replace(FAST, lora_rank=4, lr=1e-2).fit(pairs, student=tiny, out=out)
    first, *_, last = metrics(out)
    assert last["loss"] < first["loss"] / 2
    assert all(record.scores["reward_margin"] > 0 for record in gated(out, pairs))


def test_accuracy_on_held_out_pairs_is_told(tiny: Path, pairs: list[Record], tmp_path: Path) -> None:
    held_out = {pair.id for pair in pairs[9:]}
    write_dataset(tmp_path / "data", lambda: pairs, held_out=held_out, facts={})
    how = replace(FAST, eval_every=3)
    how.fit(Dataset(tmp_path / "data"), student=tiny, out=tmp_path / "model")
    looks = [m for m in metrics(tmp_path / "model") if "held_out" in m]
    assert looks[-1]["held_out_accuracy"] == 1
    assert looks[-1]["held_out_margin"] > looks[0]["held_out_margin"]
    scored = gated(tmp_path / "model", pairs[9:])
    best = min(looks, key=lambda m: m["held_out"])
    assert sum(r.scores["reward_margin"] for r in scored) / 3 == pytest.approx(best["held_out_margin"], abs=1e-2)


def test_what_does_not_fit_is_left_out_not_cut(tiny: Path, pairs: list[Record], out: Path) -> None:
    long = Record(prompt=user("Say more."), completion=assistant("far " * 300), rejected=assistant("No."))
    FAST.fit([*pairs, long], student=tiny, out=out)
    about = json.loads((out / "training.json").read_text())
    assert about["dropped"] == [long.id]
    assert about["records"] == len(pairs)


def test_single_answers_are_refused(tiny: Path, answers: list[Record], out: Path) -> None:
    with pytest.raises(ConfigError, match="of kind 'completion', not 'preference'"):
        FAST.fit(answers, student=tiny, out=out)
