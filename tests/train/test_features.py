"""Matching hidden states: figures by hand, what is masked, and who has a gradient."""

from __future__ import annotations

import pytest
import torch

from kdaug.errors import ConfigError
from kdaug.train.features import Measure, feature_loss, hidden_distance, layer_map, projections

STUDENT, TEACHER = torch.tensor([[1.0, 2, 3]]).double(), torch.tensor([[2.0, 2, 1]]).double()


def test_distances_by_hand() -> None:
    assert hidden_distance(STUDENT, TEACHER).item() == pytest.approx(1.6666666667, abs=1e-9)
    assert hidden_distance(STUDENT, TEACHER, "cosine").item() == pytest.approx(0.1982162743, abs=1e-9)
    assert hidden_distance(STUDENT, 5 * TEACHER, "cosine").item() == pytest.approx(0.1982162743, abs=1e-9)


@pytest.mark.parametrize("measure", ["mse", "cosine"])
def test_equal_states_are_no_distance_apart_and_garbage_does_not_count(measure: Measure) -> None:
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(2, 3, 4, generator=generator) for _ in range(3)]
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    pairs = {1: 1, 2: 2}
    same = projections(pairs, 4, 4, "identity")
    assert feature_loss(states, states, pairs, same, mask, measure).item() == pytest.approx(0, abs=1e-6)
    learned = projections(pairs, 4, 6)
    teacher = [torch.randn(2, 3, 6, generator=generator) for _ in range(3)]
    losses, gradients = [], []
    for garbage in (0.0, float("nan")):
        ours, theirs = (
            [torch.where(mask.bool()[..., None], h, garbage).requires_grad_() for h in side]
            for side in (states, teacher)
        )
        loss = feature_loss(ours, theirs, pairs, learned, mask, measure)
        found = torch.autograd.grad(loss, [*ours[1:], *learned.parameters()])
        assert (
            torch.autograd.grad(feature_loss(ours, theirs, pairs, learned, mask), theirs, allow_unused=True)
            == (None,) * 3
        )
        losses.append(loss.detach())
        gradients.append(torch.cat([g.flatten() for g in found]))
    assert torch.equal(*losses)
    assert torch.equal(*gradients)
    by_hand = sum(
        hidden_distance(learned[str(i)](states[i][mask.bool()]), teacher[i][mask.bool()], measure).mean()
        for i in (1, 2)
    )
    torch.testing.assert_close(losses[0], by_hand.detach() / 2)


def test_no_token_gives_nothing() -> None:
    states = [torch.randn(1, 3, 4)] * 2
    assert feature_loss(states, states, {1: 1}, projections({1: 1}, 4, 4), torch.zeros(1, 3)).item() == 0.0


def test_layers_are_matched_by_depth() -> None:
    assert layer_map(4, 12) == {1: 3, 2: 6, 3: 9, 4: 12}
    assert layer_map(6, 4) == {1: 1, 2: 1, 3: 2, 4: 3, 5: 3, 6: 4}
    assert layer_map(12, 24, 3) == {4: 8, 8: 16, 12: 24}
    with pytest.raises(ConfigError, match="from 1 to that"):
        layer_map(4, 12, 5)


def test_projections_begin_as_they_are_told_and_alike() -> None:
    first, again = projections({1: 1}, 3, 5, "kaiming", seed=4), projections({1: 1}, 3, 5, "kaiming", seed=4)
    assert torch.equal(first["1"].weight, again["1"].weight)
    assert first["1"].weight.shape == (5, 3)
    assert not projections({1: 1}, 3, 5, "zero")["1"].weight.any()
    with pytest.raises(ConfigError, match="equal widths"):
        projections({1: 1}, 3, 5, "identity")


def test_states_of_two_widths_are_told() -> None:
    with pytest.raises(ConfigError, match="projection"):
        hidden_distance(torch.zeros(2, 3), torch.zeros(2, 4))
