"""Losses against numbers worked by hand, against torch, and by their gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kdaug.train.losses import linear_logprobs


def head(tokens: int, dtype: torch.dtype, *, width: int = 5, vocabulary: int = 7) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(tokens, width, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_chunks_give_the_whole_cross_entropy_and_its_gradients(chunk: int) -> None:
    hidden, weight, targets = head(11, torch.float64)
    whole = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    expected = torch.autograd.grad(whole, (hidden, weight))
    ours = -linear_logprobs(hidden, weight, targets, chunk).sum()
    torch.testing.assert_close(ours, whole)
    torch.testing.assert_close(torch.autograd.grad(ours, (hidden, weight)), expected)


def test_the_gradient_is_that_of_finite_differences() -> None:
    hidden, weight, targets = head(5, torch.float64)
    scale = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0], dtype=torch.float64)  # DPO weighs each token by its sequence
    assert torch.autograd.gradcheck(
        lambda h, w: (scale * linear_logprobs(h, w, targets, 2)).sum(), (hidden, weight), eps=1e-6, rtol=1e-6
    )


def test_no_token_gives_no_number() -> None:
    hidden, weight, targets = head(0, torch.float32)
    assert linear_logprobs(hidden, weight, targets).shape == (0,)


def test_bfloat16_is_summed_in_float32() -> None:
    hidden, weight, targets = head(64, torch.float32, width=64, vocabulary=1000)
    exact = linear_logprobs(hidden * 0.1, weight, targets)
    rough = linear_logprobs((hidden * 0.1).bfloat16(), weight.bfloat16(), targets)
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().max() < 0.05  # the rounding of the logits themselves; a bfloat16 sum would be off by 1


def test_logits_are_never_held_whole() -> None:
    hidden, weight, targets = head(4096, torch.float32, width=8, vocabulary=512)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        linear_logprobs(hidden, weight, targets, 256)
    assert sum(saved) < 4096 * 512 / 4  # of the 16 chunks one is held, and its softmax
