"""Bad steps are not taken, are put aside with their records, and stop a training that is beyond help."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdaug.errors import TrainError
from kdaug.record import Record
from kdaug.train.guard import ENOUGH, IN_A_ROW, Guard
from kdaug.train.sft import SFT, Likelihood, Row

FAST = SFT(epochs=2, lr=3e-3, length=128, accumulate=2)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the loss of every batch that holds the record no number."""
    honest = Likelihood.loss

    def of(record: str) -> None:
        def loss(self: Likelihood, units: Sequence[Row]) -> tuple[Any, dict[str, Any]]:
            value, more = honest(self, units)
            return value * (float("nan") if any(d.record == record for row in units for d in row) else 1), more

        monkeypatch.setattr(Likelihood, "loss", loss)

    return of


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_explosion_is_seen_before_there_is_a_usual_loss() -> None:
    guard = Guard(spike=2.0)
    for loss in (6.4, 7.0, 5.5):  # a beginner's losses may do that
        assert not guard.fault(loss, 1.0)
        guard.note(loss, "")
    assert "between 5.5 and 7" in guard.fault(48195.0, 1.0)
    assert not Guard(spike=0).fault(48195.0, 1.0)


def test_a_training_that_explodes_at_once_ends_with_a_word(tiny: Path, answers: list[Record], out: Path) -> None:
    with pytest.raises(TrainError, match=r"3 steps in a row were like that: use a lower lr"):
        replace(FAST, lr=50.0, clip=0.0, warmup=0.0, steps=10, accumulate=1).fit(answers, student=tiny, out=out)


def test_a_poisoned_batch_is_left_out_and_named(
    tiny: Path, answers: list[Record], out: Path, poison: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    poison(answers[3].id)
    FAST.fit(answers, student=tiny, out=out)
    skipped = [m["step"] for m in lines(out / "metrics.jsonl") if "skipped" in m]
    assert len(skipped) == FAST.epochs  # its one step of each epoch
    aside = lines(out / "bad_batches.jsonl")
    assert [line["step"] for line in aside] == skipped
    for line in aside:
        (culprit,) = [d for d in line["documents"] if d["record"] == answers[3].id]
        assert culprit["loss"] is None  # NaN has no JSON
        assert "number 0" in culprit["text"]
        assert any(d["loss"] is not None for d in line["documents"])  # the step's other forward pass
    assert json.loads((out / "training.json").read_text())["results"]["skipped"] == skipped
    assert all(value.isfinite().all() for value in load_file(out / "model.safetensors").values())
    assert f"step {skipped[0]} is skipped" in caplog.text


def test_a_stopped_training_goes_on_when_told_to_skip(
    tiny: Path, answers: list[Record], tmp_path: Path, poison: Callable[[str], None]
) -> None:
    poison(answers[3].id)
    FAST.fit(answers, student=tiny, out=tmp_path / "skips")
    with pytest.raises(TrainError, match="on_bad=skip goes on without it"):
        replace(FAST, on_bad="stop").fit(answers, student=tiny, out=tmp_path / "stops")
    FAST.fit(answers, student=tiny, out=tmp_path / "stops")
    for name in ("bad_batches.jsonl", "metrics.jsonl"):
        told = [
            [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines(tmp_path / run / name)]
            for run in ("skips", "stops")
        ]
        assert told[0] == told[1]
    same = [load_file(tmp_path / run / "model.safetensors") for run in ("skips", "stops")]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])


def test_steps_in_a_row_are_no_batchs_fault(tiny: Path, answers: list[Record], out: Path) -> None:
    with pytest.raises(TrainError, match=rf"step {IN_A_ROW + 1}: .* {IN_A_ROW} steps in a row .* use a lower lr"):
        replace(FAST, lr=1e30, warmup=0).fit(answers, student=tiny, out=out)
    assert len(lines(out / "bad_batches.jsonl")) == IN_A_ROW


def test_a_spike_is_a_loss_far_out_of_the_range_of_the_last_ones() -> None:
    guard = Guard(2.0)
    for n in range(ENOUGH):
        assert guard.fault(15.0, 1.0) == ""  # what is usual is not known yet
        guard.note(2.0 + n % 2, "")
    assert guard.fault(4.9, 1.0) == ""  # 3 + 2·(3 - 2) is the limit
    assert "lay between 2 and 3" in guard.fault(5.1, 1.0)
    assert guard.fault(-1e9, 1.0) == ""  # only upwards
    assert Guard(0.0).fault(1e9, 1.0) == ""


def test_a_loss_that_hardly_moves_is_no_spike() -> None:
    guard = Guard(2.0, [{"loss": 2.0}] * ENOUGH)
    assert guard.fault(2.1, 1.0) == ""
    assert guard.fault(2.3, 1.0)


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_what_is_no_number_is_always_a_fault(loss: float, norm: float) -> None:
    assert Guard(0.0).fault(loss, norm)


def test_what_was_skipped_is_no_measure_of_what_follows() -> None:
    guard = Guard(2.0, [*[{"loss": 2.0}] * ENOUGH, {"loss": None, "skipped": "the loss is nan"}])
    assert guard.in_a_row == 1
    assert list(guard.losses) == [2.0] * ENOUGH
    guard.note(2.0, "")
    assert guard.in_a_row == 0
