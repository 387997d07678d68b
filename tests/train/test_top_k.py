"""Distillation from stored top-k log-probabilities: figures by hand, and the properties of its tails."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kdaug.errors import ConfigError
from kdaug.train.divergences import forward_kl, top_k_kl

LOG_P = torch.tensor([[2.0, 1, 0, -1]]).double().log_softmax(-1)
LOG_Q = torch.tensor([[0.5, 1.5, 0, -0.5]]).double().log_softmax(-1)
TAILS: list[dict[str, Any]] = [
    {"tail": "bucket"},
    {"tail": "uniform"},
    {"tail": "zero"},
    {"tail": "zero", "renormalise": "teacher"},
    {"tail": "zero", "renormalise": "both"},
]


def rows(n: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, n, vocabulary, generator=generator, dtype=torch.float64) * 2
    return p.log_softmax(-1), q.requires_grad_()


@pytest.mark.parametrize(
    ("how", "value"),
    list(zip(TAILS, (0.4340770189, 0.4377639419, 0.5002344744, 0.6948618597, 0.4621171573), strict=True)),
)
def test_two_of_four_tokens_by_hand(how: dict[str, Any], value: float) -> None:
    top, ids = LOG_P.topk(2)
    assert ids.tolist() == [[0, 1]]
    assert top_k_kl(ids, top, LOG_Q, **how).item() == pytest.approx(value, abs=1e-9)
    given = top_k_kl(ids, top, LOG_Q, residual=torch.tensor([0.1192029220]).double(), **how)
    assert given.item() == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("how", TAILS)
def test_all_tokens_give_the_whole_divergence(how: dict[str, Any]) -> None:
    log_p, q = rows(20, 8)
    top, ids = log_p.topk(8)
    torch.testing.assert_close(top_k_kl(ids, top, q.log_softmax(-1), **how), forward_kl(log_p, q.log_softmax(-1)))


def test_the_bucket_rises_to_the_whole_divergence_with_k_and_never_falls_below_nothing() -> None:
    log_p, q = rows(50, 12)
    log_q = q.log_softmax(-1)
    values = []
    for k in range(1, 13):
        top, ids = log_p.topk(k)
        values.append(top_k_kl(ids, top, log_q))
    found = torch.stack(values)
    assert found.min() >= 0
    assert (found.diff(dim=0) >= -1e-12).all()
    torch.testing.assert_close(found[-1], forward_kl(log_p, log_q))


@pytest.mark.parametrize("how", TAILS)
def test_the_gradient_is_that_of_central_differences_and_sums_to_nothing(how: dict[str, Any]) -> None:
    log_p, q = rows(3, 8)
    top, ids = log_p.topk(3)
    assert torch.autograd.gradcheck(
        lambda z: top_k_kl(ids, top, z.log_softmax(-1), **how).sum(), q, eps=1e-6, rtol=1e-6, atol=1e-8
    )
    (gradient,) = torch.autograd.grad(top_k_kl(ids, top, q.log_softmax(-1), **how).sum(), q)
    assert gradient.sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize("how", TAILS)
def test_a_place_without_a_token_changes_nothing(how: dict[str, Any]) -> None:
    log_p, q = rows(4, 8)
    top, ids = log_p.topk(3)
    padded = torch.cat([top, torch.full((4, 2), -math.inf).double()], -1), torch.cat([ids, ids[:, :1], ids[:, :1]], -1)
    loss = [top_k_kl(i, t, q.log_softmax(-1), **how) for t, i in ((top, ids), padded)]
    torch.testing.assert_close(loss[0], loss[1])
    gradients = [torch.autograd.grad(each.sum(), q)[0] for each in loss]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_teacher_sure_of_its_top_k_has_no_tail() -> None:
    top = torch.tensor([[0.9, 0.1]]).log() + 1e-7  # float32 rounds its sum above 1
    q = torch.tensor([[9.0, -9, 0, 3]], requires_grad=True)
    loss = top_k_kl(torch.tensor([[0, 1]]), top, q.log_softmax(-1))
    (gradient,) = torch.autograd.grad(loss.sum(), q)
    assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()
    without = top_k_kl(torch.tensor([[0, 1]]), top, q.log_softmax(-1), tail="zero")
    torch.testing.assert_close(loss, without)


@pytest.mark.parametrize("how", TAILS)
def test_huge_logits_stay_finite(how: dict[str, Any]) -> None:
    log_p = torch.tensor([[1e4, -1e4, 0, 5], [0, -1e4, 0, 1e4]]).log_softmax(-1)
    q = torch.tensor([[-1e4, 1e4, 0, 5], [1e4, -1e4, 0, 5]]).requires_grad_()
    top, ids = log_p.topk(2)
    loss = top_k_kl(ids, top, q.log_softmax(-1), **how)
    (gradient,) = torch.autograd.grad(loss.sum(), q)
    assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()


def test_a_stored_residual_takes_out_the_rounding_of_float16() -> None:
    log_p, q = rows(200, 50)
    top, ids = (log_p * 3).log_softmax(-1).topk(10)
    residual = 1 - top.exp().sum(-1)
    exact = top_k_kl(ids, top, q.log_softmax(-1))
    rounded = top.half().double()
    with_it = top_k_kl(ids, rounded, q.log_softmax(-1), residual=residual)
    without = top_k_kl(ids, rounded, q.log_softmax(-1))
    assert (with_it - exact).abs().max() < 2e-3
    assert (with_it - exact).abs().mean() < (without - exact).abs().mean()


def test_wrong_settings_are_told() -> None:
    top, ids = LOG_P.topk(2)
    call = partial(top_k_kl, ids, top, LOG_Q)
    with pytest.raises(ConfigError, match="bucket, uniform, zero"):
        call(tail="none")
    with pytest.raises(ConfigError, match="teacher, both"):
        call(renormalise="yes")
    with pytest.raises(ConfigError, match="tail='zero'"):
        call(renormalise="both")
    with pytest.raises(ConfigError, match="vocabulary of 1"):
        top_k_kl(ids, top, LOG_Q[:, :1])
