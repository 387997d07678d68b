"""MiniLLM's pieces: figures by hand and the cases in which they must vanish."""

from __future__ import annotations

import math

import pytest
import torch

from kdaug.train.minillm import mixed_logprobs, returns, rollout_weight, sampled_kl, surrogate, token_rewards, whiten

LOG_P, LOG_Q = torch.tensor([[-0.5, -1, -2]]).double(), torch.tensor([[-0.7, -0.8, -1]]).double()
MASK = torch.ones(1, 3)


def test_rewards_and_returns_by_hand() -> None:
    rewards = token_rewards(LOG_P, LOG_Q)
    assert rewards[0].tolist() == pytest.approx([0.2, -0.2, -1.0])
    plain = returns(rewards, MASK, length_normalise=False)
    assert plain[0].tolist() == pytest.approx([-1.0, -1.2, -1.0])
    discounted = returns(rewards, MASK, gamma=0.95, length_normalise=False)
    assert discounted[0].tolist() == pytest.approx([-0.8925, -1.15, -1.0])
    assert returns(rewards, MASK)[0].tolist() == pytest.approx([-1 / 3, -0.6, -1.0])
    assert returns(rewards, MASK, from_next=True)[0].tolist() == pytest.approx([-0.6, -1.0, 0.0])
    assert token_rewards(LOG_P, LOG_Q, clip=0.3)[0].tolist() == pytest.approx([0.2, -0.2, -0.3])


def test_a_teacher_like_the_student_rewards_nothing() -> None:
    assert not token_rewards(LOG_P, LOG_P).any()
    assert not returns(token_rewards(LOG_P, LOG_P), MASK).any()


def test_what_is_masked_is_in_no_return() -> None:
    rewards = torch.tensor([[float("nan"), 0.2, -0.2, -1.0, float("nan")], [1.0, float("nan"), float("nan"), 2.0, 3.0]])
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 0, 0, 1, 0]])
    found = returns(rewards, mask)
    assert found[0].tolist() == pytest.approx([0, -1 / 3, -0.6, -1, 0])
    assert found[1].tolist() == pytest.approx([1.5, 0, 0, 2, 0])
    white = whiten(found.masked_fill(mask == 0, float("nan")), mask)
    kept = white[mask.bool()]
    assert kept.mean().item() == pytest.approx(0, abs=1e-6)
    assert kept.std(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    assert not white[~mask.bool()].any()


def test_the_weight_of_mixed_sampling() -> None:
    torch.testing.assert_close(mixed_logprobs(LOG_P, LOG_Q, 0.2).exp(), 0.2 * LOG_P.exp() + 0.8 * LOG_Q.exp())
    assert rollout_weight(LOG_Q, mixed_logprobs(LOG_P, LOG_Q, 0.0))[0].tolist() == [1, 1, 1]
    torch.testing.assert_close(rollout_weight(LOG_Q, mixed_logprobs(LOG_P, LOG_Q, 1.0)), (LOG_Q - LOG_P).exp())


def test_the_surrogate_is_the_policy_gradient_until_it_clips() -> None:
    advantages = torch.tensor([[1.0, -2.0, 0.5]]).double()
    log_q = LOG_Q.clone().requires_grad_()
    loss = surrogate(log_q, LOG_Q, advantages, MASK)
    assert loss.item() == pytest.approx(-advantages.mean().item())
    torch.testing.assert_close(torch.autograd.grad(loss, log_q)[0], -advantages / 3)
    moved = (LOG_Q + torch.tensor([[0.5, -0.5, 0.0]])).requires_grad_()  # as far as it was to go, and beyond
    loss = surrogate(moved, LOG_Q, advantages, MASK)
    assert loss.item() == pytest.approx((-1.2 + 2 * 0.8 - 0.5) / 3)
    assert torch.autograd.grad(loss, moved)[0][0].tolist() == pytest.approx([0, 0, -0.5 / 3])
    weighed = surrogate(LOG_Q, LOG_Q, advantages, MASK, weight=torch.tensor([[1.1, 0.9, 1.0]]))
    assert weighed.item() == pytest.approx((-1.1 + 1.8 - 0.5) / 3)


def test_garbage_beside_the_answer_reaches_neither_loss_nor_gradient() -> None:
    nan = float("nan")
    log_q = torch.tensor([[-1.0, nan, -2.0, nan]], requires_grad=True)
    advantages, mask = torch.tensor([[1.0, nan, 1.0, nan]]), torch.tensor([[1, 0, 1, 0]])
    loss = surrogate(log_q, log_q.detach(), advantages, mask)
    assert loss.item() == pytest.approx(-1.0)
    assert torch.autograd.grad(loss, log_q)[0][0].tolist() == [-0.5, 0, -0.5, 0]


def test_the_estimate_of_the_divergence_by_hand() -> None:
    student, teacher = torch.tensor([[0.6, 0.4], [0.5, 0.5]], dtype=torch.float64)
    estimate = sampled_kl(teacher.log(), student.log())
    assert (estimate >= 0).all()
    assert (student * estimate).sum().item() == pytest.approx(0.0201355136, abs=1e-9)  # its mean over samples
    assert (student * (student / teacher).log()).sum().item() == pytest.approx(0.0201355136, abs=1e-9)
    assert sampled_kl(LOG_P, LOG_Q)[0, 0].item() == pytest.approx(math.exp(0.2) - 1.2)
