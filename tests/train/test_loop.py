"""What the loop keeps: the best student by held-out records, the average of the weights, a checkpoint of its own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdaug.chat import Chat
from kdaug.dataset import Dataset, write_dataset
from kdaug.errors import ConfigError, Interrupted, TrainError
from kdaug.record import Record, assistant, user
from kdaug.train.average import Average
from kdaug.train.batching import encode
from kdaug.train.loop import Step
from kdaug.train.sft import SFT, Likelihood
from kdaug.train.student import load

FAST = SFT(epochs=2, lr=3e-3, length=128, accumulate=2)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())["results"]
    return found


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def stop_at(last: int) -> Callable[[Step], None]:
    def on_step(step: Step) -> None:
        if step.step == last:
            raise KeyboardInterrupt

    return on_step


@pytest.fixture
def held_out(answers: list[Record], tmp_path: Path) -> Dataset:
    """A dataset whose held-out answers get less likely with each step: they share no letter with the others."""
    others = [Record(prompt=user(f"Is it {n}?"), completion=assistant("QXZ JKW! " * 3)) for n in range(4)]
    write_dataset(tmp_path / "data", lambda: answers + others, held_out={r.id for r in others}, facts={})
    return Dataset(tmp_path / "data")


def test_the_student_is_the_best_by_held_out_records(tiny: Path, held_out: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "model"
    how = replace(FAST, epochs=6, eval_every=4)
    how.fit(held_out, student=tiny, out=out)
    looks = {m["step"]: m["held_out"] for m in metrics(out) if "held_out" in m}
    steps = len(metrics(out))
    assert list(looks) == [*range(4, steps, 4), steps]
    best = min(looks, key=lambda step: looks[step])
    assert best < steps
    assert (results(out)["best_step"], results(out)["held_out"]) == (best, looks[best])
    chat = Chat.load(out)
    rows = [list(pair) for pair in encode(held_out, "completion", chat, 128, "test").documents]
    with torch.no_grad():
        loss, _ = Likelihood(load(out, chat, "cpu")).loss(rows)
    assert float(loss) / sum(d.trained for row in rows for d in row) == pytest.approx(looks[best], abs=1e-5)
    assert not (out / "best.pt").exists()


def test_an_interrupted_search_for_the_best_finds_the_same(tiny: Path, held_out: Dataset, tmp_path: Path) -> None:
    how = replace(FAST, epochs=4, eval_every=3, save_every=5, ema=0.9)
    how.fit(held_out, student=tiny, out=tmp_path / "whole")
    for last in (4, 13):
        with pytest.raises(Interrupted):
            how.fit(held_out, student=tiny, out=tmp_path / "parts", on_step=stop_at(last))
    how.fit(held_out, student=tiny, out=tmp_path / "parts")
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    looks = [[m.get("held_out") for m in metrics(tmp_path / run)] for run in ("whole", "parts")]
    assert looks[0] == looks[1]


def test_looking_at_held_out_records_changes_no_training(tiny: Path, held_out: Dataset, tmp_path: Path) -> None:
    FAST.fit(held_out, student=tiny, out=tmp_path / "blind")
    replace(FAST, eval_every=2).fit(held_out, student=tiny, out=tmp_path / "seeing")
    assert [m["loss"] for m in metrics(tmp_path / "blind")] == [m["loss"] for m in metrics(tmp_path / "seeing")]


def test_held_out_records_are_needed_to_look_at(tiny: Path, answers: list[Record], out: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval_every=2 needs held-out completion records.*--holdout"):
        replace(FAST, eval_every=2).fit(answers, student=tiny, out=out)


def test_steps_are_taken_over_as_many_passes_as_that_is(tiny: Path, answers: list[Record], tmp_path: Path) -> None:
    """24 records are a few steps an epoch: three steps stop within one, eleven go on into others."""
    for steps in (3, 11):
        SFT(steps=steps, lr=3e-3, length=128, accumulate=2).fit(answers, student=tiny, out=tmp_path / str(steps))
        taken = metrics(tmp_path / str(steps))
        assert [m["step"] for m in taken] == list(range(1, steps + 1)) and results(tmp_path / str(steps))[
            "steps"
        ] == steps
        assert taken[-1]["lr"] < taken[0]["lr"] or steps == 3


def test_an_average_follows_the_weights() -> None:
    weights = {"w": torch.tensor([8.0])}
    average = Average(weights, 0.75)
    for value in (4.0, 0.0):  # 0.75·8 + 0.25·4 = 7; 0.75·7 + 0.25·0 = 5.25
        weights["w"].fill_(value)
        average.update()
    with average.in_place():
        assert weights["w"].item() == 5.25
    assert weights["w"].item() == 0.0


def test_the_averaged_weights_are_the_student(tiny: Path, answers: list[Record], tmp_path: Path) -> None:
    FAST.fit(answers, student=tiny, out=tmp_path / "last")
    replace(FAST, ema=0.5).fit(answers, student=tiny, out=tmp_path / "mean")
    assert [m["loss"] for m in metrics(tmp_path / "last")] == [m["loss"] for m in metrics(tmp_path / "mean")]
    assert not same_weights(tmp_path / "last", tmp_path / "mean")
    assert results(tmp_path / "mean")["averaged"] is True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_last_whole_step_and_says_how_to_go_on(
    tiny: Path, answers: list[Record], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    before = signal.getsignal(number)
    FAST.fit(answers, student=tiny, out=tmp_path / "whole")

    def send(step: Step) -> None:
        if step.step == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=r"step 5 of \d+ is saved, and the same command goes on") as ended:
        FAST.fit(answers, student=tiny, out=tmp_path / "parts", on_step=send)
    assert ended.value.exit_code == code
    assert signal.getsignal(number) == before
    taken: list[int] = []
    FAST.fit(answers, student=tiny, out=tmp_path / "parts", on_step=lambda step: taken.append(step.step))
    assert taken[0] == 6
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_checkpoint_of_another_training_is_refused(tiny: Path, answers: list[Record], tmp_path: Path) -> None:
    for run, lr in (("one", 1e-3), ("other", 2e-3)):
        with pytest.raises(Interrupted):
            replace(FAST, lr=lr).fit(answers, student=tiny, out=tmp_path / run, on_step=stop_at(3))
    (tmp_path / "one" / "checkpoint.pt").replace(tmp_path / "other" / "checkpoint.pt")
    with pytest.raises(ConfigError, match=r"checkpoint of another training \(lr: 0\.001 there, 0\.002 now\)"):
        replace(FAST, lr=2e-3).fit(answers, student=tiny, out=tmp_path / "other")


def test_a_damaged_checkpoint_says_the_way_out(tiny: Path, answers: list[Record], out: Path) -> None:
    with pytest.raises(Interrupted):
        FAST.fit(answers, student=tiny, out=out, on_step=stop_at(3))
    body = (out / "checkpoint.pt").read_bytes()
    (out / "checkpoint.pt").write_bytes(body[: len(body) // 2])
    with pytest.raises(TrainError, match="delete it, and training begins anew"):
        FAST.fit(answers, student=tiny, out=out)


def test_too_many_cut_records_are_refused(
    tiny: Path, answers: list[Record], out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = [Record(prompt=user(f"Go on, {n}."), completion=assistant("word " * 60)) for n in range(4)]
    with pytest.raises(TrainError, match=rf"4 of 28 records are cut to length=128 tokens.*{long[0].id}.*raise length"):
        FAST.fit(answers + long, student=tiny, out=out)
    assert not out.exists()
    replace(FAST, epochs=1, max_truncated=0.2).fit(answers + long, student=tiny, out=out)
    assert "4 of 28 records are cut" in caplog.text


def test_out_of_memory_says_what_to_lower(
    tiny: Path, answers: list[Record], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        return torch.empty(1 << 60)

    monkeypatch.setattr(Likelihood, "loss", full)
    with pytest.raises(TrainError, match="out of memory on cpu: lower batch and raise accumulate"):
        FAST.fit(answers, student=tiny, out=out)
