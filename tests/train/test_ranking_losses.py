"""Losses of ranked answers and of reward models: figures by hand, central differences, properties."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from kdaug.errors import ConfigError
from kdaug.train.ranking_losses import pro, rrhf
from kdaug.train.reward_losses import accuracy, bradley_terry, last_token, ranked_bradley_terry, soft_bradley_terry


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


ONES = vector(1, 1, 1)


def test_rrhf_by_hand() -> None:
    scores, rewards = vector(-2, -1, -1.5), vector(0.9, 0.1, 0.5)
    assert rrhf(scores, ONES, rewards, sft_weight=0.0).item() == pytest.approx(2.0)
    assert rrhf(scores, ONES, rewards).item() == pytest.approx(4.0)  # and the best one's -log-probability
    lengths = vector(4, 2, 3)
    assert rrhf(scores * lengths, lengths, rewards).item() == pytest.approx(4.0)
    summed = rrhf(scores * lengths, lengths, rewards, alpha=0.0, sft_weight=0.0)
    assert summed.item() == pytest.approx((8 - 2) + (8 - 4.5) + (4.5 - 2))
    assert rrhf(scores, ONES, vector(1, 1, 1), sft_weight=0.0).item() == 0.0


def test_pro_by_hand() -> None:
    scores, rewards = vector(-1.5, -1, -2), vector(2, 1, 0.5)
    assert pro(scores, ONES, rewards, sft_weight=0.0).item() == pytest.approx(2.0760288480, abs=1e-9)
    assert pro(scores, ONES, rewards, sft_weight=0.0, unit=True).item() == pytest.approx(1.4935313582, abs=1e-9)
    assert pro(scores[:2], ONES[:2], rewards[:2], sft_weight=0.0).item() == pytest.approx(math.log1p(math.exp(0.5)))
    with_best = 2.0760288480 + 0.05 * 4 * 1.5
    assert pro(scores, ONES, rewards).item() == pytest.approx(with_best, abs=1e-9)
    order, lengths = [2, 0, 1], vector(4, 2, 3)
    assert pro((scores * lengths)[order], lengths[order], rewards[order]).item() == pytest.approx(with_best, abs=1e-9)


def test_pro_refuses_equal_rewards_and_stands_far_scores() -> None:
    with pytest.raises(ConfigError, match="same reward"):
        pro(vector(-1, -2), ONES[:2], vector(1, 1))
    scores = vector(-1e4, -1, -5e3).requires_grad_()
    loss = pro(scores, ONES, vector(3, 2, 1))
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, scores)[0]).all()


@pytest.mark.parametrize("loss", [rrhf, pro, partial(pro, unit=True), partial(rrhf, alpha=0.5)])
def test_the_gradient_of_ranked_losses_is_that_of_central_differences(loss: partial[Tensor]) -> None:
    lengths, rewards = vector(4, 2, 3, 5), vector(0.9, 0.1, 0.5, 0.2)
    scores = vector(-8, -3, -2, -9).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, lengths, rewards), scores, eps=1e-6, rtol=1e-6)


def test_bradley_terry_by_hand() -> None:
    chosen, rejected = vector(1.2).requires_grad_(), vector(0.7).requires_grad_()
    loss = bradley_terry(chosen, rejected)
    assert loss.item() == pytest.approx(0.4740769842, abs=1e-9)
    assert torch.autograd.grad(loss.sum(), chosen)[0].item() == pytest.approx(-0.3775406688, abs=1e-9)
    assert bradley_terry(chosen, rejected, margin=vector(0.3)).item() == pytest.approx(0.5981388694, abs=1e-9)
    assert bradley_terry(chosen, rejected, centring=0.01).item() == pytest.approx(0.5101769842, abs=1e-9)
    assert soft_bradley_terry(chosen, rejected, vector(0.6)).item() == pytest.approx(0.6740769842, abs=1e-9)
    for call in (partial(bradley_terry, margin=0.3, centring=0.01), lambda c, r: soft_bradley_terry(c, r, vector(0.6))):
        assert torch.autograd.gradcheck(call, (chosen, rejected), eps=1e-6, rtol=1e-6)


def test_only_differences_of_rewards_matter() -> None:
    chosen, rejected = vector(1.2, -3, 0), vector(0.7, 2, 0)
    torch.testing.assert_close(bradley_terry(chosen + 9, rejected + 9), bradley_terry(chosen, rejected))
    assert bradley_terry(chosen, rejected)[2].item() == pytest.approx(math.log(2))
    assert torch.isfinite(bradley_terry(vector(1e4, -1e4), vector(-1e4, 1e4))).all()
    assert accuracy(chosen, rejected).tolist() == [1.0, 0.0, 0.5]


def test_soft_labels_are_met_at_their_logit() -> None:
    apart = vector(math.log(0.6 / 0.4)).requires_grad_()
    (gradient,) = torch.autograd.grad(soft_bradley_terry(apart, vector(0), vector(0.6)).sum(), apart)
    assert abs(gradient.item()) < 1e-12


def test_a_list_is_the_mean_of_its_pairs() -> None:
    scores, rewards = vector(1.2, 0.7, -0.3), vector(3, 1, 1)  # the last two are equals: no pair
    by_hand = (bradley_terry(scores[0], scores[1]) + bradley_terry(scores[0], scores[2])) / 2
    torch.testing.assert_close(ranked_bradley_terry(scores, rewards), by_hand)
    assert ranked_bradley_terry(scores, vector(1, 1, 1)).item() == 0.0


def test_the_last_token_is_found_on_either_side_of_the_padding() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 0, 0]])
    assert last_token(mask).tolist() == [2, 3, 3, 1]
