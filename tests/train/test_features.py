"""Matching hidden states: figures by hand, what is masked, and who has a gradient."""

from __future__ import annotations

import pytest
import torch

from kdaug.errors import ConfigError
from kdaug.train.features import Measure, feature_distance, hidden_distance, layer_map, projections

STUDENT, TEACHER = torch.tensor([[1.0, 2, 3]]).double(), torch.tensor([[2.0, 2, 1]]).double()


def test_distances_by_hand() -> None:
    assert hidden_distance(STUDENT, TEACHER).item() == pytest.approx(1.6666666667, abs=1e-9)
    assert hidden_distance(STUDENT, TEACHER, "cosine").item() == pytest.approx(0.1982162743, abs=1e-9)
    assert hidden_distance(STUDENT, 5 * TEACHER, "cosine").item() == pytest.approx(0.1982162743, abs=1e-9)


@pytest.mark.parametrize("measure", ["mse", "cosine"])
def test_equal_states_are_no_distance_apart_and_the_projection_learns(measure: Measure) -> None:
    generator = torch.Generator().manual_seed(0)
    states = {i: torch.randn(3, 4, generator=generator).requires_grad_() for i in (1, 2)}
    pairs = {1: 1, 2: 2}
    same = feature_distance(states, states, pairs, projections(pairs, 4, 4), measure)
    torch.testing.assert_close(same, torch.zeros(3), atol=1e-6, rtol=0)
    learned = projections(pairs, 4, 6)
    teacher = {i: torch.randn(3, 6, generator=generator).requires_grad_() for i in (1, 2)}
    found = feature_distance(states, teacher, pairs, learned, measure)
    by_hand = [hidden_distance(learned[str(i)](states[i]), teacher[i], measure) for i in (1, 2)]
    torch.testing.assert_close(found, (by_hand[0] + by_hand[1]) / 2)
    wanted = [*states.values(), *learned.parameters()]
    assert all(bool(g.any()) for g in torch.autograd.grad(found.sum(), wanted, retain_graph=True))
    assert torch.autograd.grad(found.sum(), list(teacher.values()), allow_unused=True) == (None, None)


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
    assert torch.equal(projections({1: 1}, 3, 3)["1"].weight, torch.eye(3))
    with pytest.raises(ConfigError, match="equal widths"):
        projections({1: 1}, 3, 5, "identity")


def test_states_of_two_widths_are_told() -> None:
    with pytest.raises(ConfigError, match="projection"):
        hidden_distance(torch.zeros(2, 3), torch.zeros(2, 4))
