"""DPO: the margin grows, the reference is computed once and is the student before its first step."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from kdaug.chat import Chat
from kdaug.errors import ConfigError
from kdaug.models import find_model
from kdaug.record import Record
from kdaug.train.batching import encode
from kdaug.train.loop import Step
from kdaug.train.preference import DPO
from kdaug.train.student import load

FAST = DPO(epochs=4, lr=1e-3, length=256, batch=2, accumulate=3, dtype="float32")


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_starts_at_ln_2_and_moves_the_margin_up(tiny: Path, pairs: list[Record], out: Path) -> None:
    FAST.fit(pairs, student=tiny, out=out)
    first, *_, last = metrics(out)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["margin"] == pytest.approx(0, abs=1e-4)
    assert last["margin"] > 1
    assert last["accuracy"] == 1
    assert last["chosen"] > last["rejected"]
    # The same from outside: the trained model against the student that it came from.
    chat = Chat.load(tiny)
    chosen, rejected = zip(*encode(pairs, "preference", chat, 256).documents, strict=True)
    new, old = load(out, chat, "cpu"), load(tiny, chat, "cpu")
    gained = [(new.sums(side, 256) - old.sums(side, 256)).mean().item() for side in (chosen, rejected)]
    assert gained[0] - gained[1] > 1


def test_pairs_in_one_batch_or_apart_are_the_same(tiny: Path, pairs: list[Record], tmp_path: Path) -> None:
    once = replace(FAST, epochs=1)
    replace(once, batch=6, accumulate=1).fit(pairs, student=tiny, out=tmp_path / "one")
    replace(once, batch=1, accumulate=6).fit(pairs, student=tiny, out=tmp_path / "six")
    for one, six in zip(metrics(tmp_path / "one"), metrics(tmp_path / "six"), strict=True):
        assert six["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert six["margin"] == pytest.approx(one["margin"], abs=1e-3)


def test_an_interrupted_training_keeps_its_reference(tiny: Path, pairs: list[Record], tmp_path: Path) -> None:
    FAST.fit(pairs, student=tiny, out=tmp_path / "whole")

    def interrupt(step: Step) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FAST.fit(pairs, student=tiny, out=tmp_path / "parts", on_step=interrupt)
    reference = tmp_path / "parts" / "reference.json"
    written = reference.stat().st_mtime_ns
    again: list[int] = []
    FAST.fit(
        pairs, student=tiny, out=tmp_path / "parts", on_step=lambda step: again.append(reference.stat().st_mtime_ns)
    )
    assert again == [written] * 5
    assert not reference.exists()
    for part, whole in zip(metrics(tmp_path / "parts"), metrics(tmp_path / "whole"), strict=True):
        assert part["loss"] == pytest.approx(whole["loss"], abs=1e-4)


def test_a_reference_of_something_else_is_not_used(tiny: Path, pairs: list[Record], out: Path) -> None:
    out.mkdir()
    (out / "reference.json").write_text(json.dumps({"key": ["another"], "logprobs": [0.0] * 2 * len(pairs)}))
    replace(FAST, epochs=1).fit(pairs, student=tiny, out=out)
    assert metrics(out)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_single_answers_are_refused(tiny: Path, answers: list[Record], out: Path) -> None:
    with pytest.raises(ConfigError, match="pairs have a rejected one as well"):
        FAST.fit(answers, student=tiny, out=out)


def test_label_smoothing_must_stay_below_one_half(tiny: Path, pairs: list[Record], out: Path) -> None:
    with pytest.raises(ConfigError, match="label_smoothing"):
        replace(FAST, label_smoothing=0.7).fit(pairs, student=tiny, out=out)


@pytest.mark.slow
def test_the_shipped_student_learns_a_preference(pairs: list[Record], out: Path) -> None:
    how = DPO(epochs=1, lr=1e-5, length=256, batch=1, accumulate=1)
    how.fit(pairs[:4], student=find_model().path, out=out)
    first, *_, last = metrics(out)
    assert first["loss"] == pytest.approx(math.log(2), abs=0.02)
    assert last["margin"] > first["margin"] + 1
