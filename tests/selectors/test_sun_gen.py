"""SunGen gives wrong labels less weight, and chooses the rest whatever their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kdaug.errors import ConfigError
from kdaug.record import Record, assistant, user
from kdaug.selector import Pool
from kdaug.selectors.sun_gen import SunGen


def clusters(count: int, wrong: float, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 2, count)
    vectors = rng.normal(size=(count, 8)) * 0.35
    vectors[:, 0] += 2 * true - 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    flipped = rng.random(count) < wrong
    return vectors.astype(np.float32), np.where(flipped, 1 - true, true), flipped


@pytest.mark.parametrize("wrong", [0.1, 0.3])
def test_wrong_labels_weigh_less(wrong: float) -> None:
    vectors, targets, flipped = clusters(400, wrong)
    weights = SunGen(100).weights(vectors, targets)
    assert weights.min() > 0 and weights.max() <= 1
    assert weights[~flipped].mean() > weights[flipped].mean() + 0.2
    order = np.argsort(-weights, kind="stable")[: 400 - int(flipped.sum())]
    assert flipped[order].mean() < wrong / 3


def pool(monkeypatch: pytest.MonkeyPatch, backwards: bool = False) -> tuple[Pool, Any]:
    vectors, targets, flipped = clusters(60, 0.2)
    records = [Record(prompt=user(f"text {n}"), completion=assistant("ab"[target])) for n, target in enumerate(targets)]
    places = range(60)[:: -1 if backwards else 1]
    shown = [records[n] for n in places]
    monkeypatch.setattr(Pool, "vectors", lambda self, model, on, wanted: np.array([vectors[places[p]] for p in wanted]))
    return Pool(lambda: shown, [record.id for record in shown]), flipped


def test_the_choice_does_not_depend_on_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = pool(monkeypatch)
    there = {first.ids[place] for place in SunGen(40).select(first).kept}
    second, _ = pool(monkeypatch, backwards=True)
    selection = SunGen(40).select(second)
    assert {second.ids[place] for place in selection.kept} == there and len(there) == 40
    left = next(place for place in range(60) if place not in selection.kept)
    assert selection.why(left).reason == "select:weight" and selection.why(left).detail["rank"] > 40


def test_one_label_is_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [Record(prompt=user("a"), completion=assistant("x"))]
    monkeypatch.setattr(Pool, "vectors", lambda *_: np.ones((1, 2), np.float32))
    with pytest.raises(ConfigError, match="two labels"):
        SunGen(1).select(Pool(lambda: records, ["i"]))
