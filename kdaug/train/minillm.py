"""MiniLLM (arXiv 2306.08543): reverse KL of whole answers, by policy gradient on answers that the student samples.

All tensors are [B, L], a row an answer, with `mask` 1 at its tokens (end of text included, prompt and padding not).
log p is the teacher's log-probability of each sampled token, log q the student's; `old` is the student that sampled.
The single step's part, which needs no sampling, is `divergences.reverse_kl` at each token of the answer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kdaug.train.losses import token_mean

if TYPE_CHECKING:
    from torch import Tensor


def mixed_logprobs(log_p: Tensor, log_q: Tensor, alpha: float = 0.2) -> Tensor:
    """log π̃ = log(αp + (1-α)q): what the answer's tokens are sampled from, so that it stays plausible (§2.2)."""
    import torch

    if alpha in (0.0, 1.0):
        return log_p if alpha else log_q
    return torch.logaddexp(log_p + math.log(alpha), log_q + math.log1p(-alpha))


def rollout_weight(log_q_old: Tensor, log_mixed: Tensor) -> Tensor:
    """w = q_old/π̃ of each token, a constant that corrects for the sampling (§2.2, there of the whole prefix)."""
    return (log_q_old - log_mixed).exp().detach()


def token_rewards(log_p: Tensor, log_q_old: Tensor, clip: float = 100.0) -> Tensor:
    """r = log p - log q_old, a constant, between ±`clip` (eq. 3)."""
    return (log_p - log_q_old).clamp(-clip, clip).detach()


def returns(
    rewards: Tensor, mask: Tensor, *, gamma: float = 1.0, length_normalise: bool = True, from_next: bool = False
) -> Tensor:
    """R_t = Σ_{k >= t} γ^(k-t) r_k over the answer, divided by the tokens in the sum; 0 where masked.

    `from_next` begins at t+1: the paper's, where the single step's part has r_t (eq. 6); its code has r_t in both.
    """
    import torch

    counted = mask.bool()
    kept = torch.where(counted, rewards, 0.0)
    total, number = torch.zeros_like(kept), torch.zeros_like(kept)
    later = kept.new_zeros(kept.shape[0])
    count = kept.new_zeros(kept.shape[0])
    for t in reversed(range(kept.shape[1])):
        if from_next:
            total[:, t], number[:, t] = later, count
        later = torch.where(counted[:, t], kept[:, t] + gamma * later, later)
        count = count + counted[:, t]
        if not from_next:
            total[:, t], number[:, t] = later, count
    found = total / number.clamp(min=1) if length_normalise else total
    return torch.where(counted, found, 0.0)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Of mean 0 and variance 1 over all tokens that count; 0 where masked."""
    import torch

    counted = mask.bool()
    mean = token_mean(values, counted)
    deviation = token_mean((values - mean) ** 2, counted).sqrt()
    return torch.where(counted, (values - mean) / (deviation + 1e-8), 0.0)


def surrogate(
    log_q: Tensor,
    log_q_old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    weight: Tensor | float = 1.0,
    clip: float = 0.2,
) -> Tensor:
    """Mean over tokens of max(-ρA, -clip(ρ, 1 ± `clip`)A), ρ = w·q/q_old: the long-range part of the loss (§2.2)."""
    import torch

    ratio = torch.where(mask.bool(), log_q - log_q_old, 0.0).exp() * weight
    losses = torch.maximum(-ratio * advantages, -ratio.clamp(1 - clip, 1 + clip) * advantages)
    return token_mean(losses, mask)


def sampled_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """e^d - 1 - d, d = log p - log q: an unbiased estimate of KL(q‖p) from the student's samples, at least 0 (k3)."""
    apart = log_p - log_q
    return apart.expm1() - apart
