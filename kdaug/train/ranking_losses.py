"""Losses of a ranked list: n answers to one prompt, each with a reward (RRHF, PRO)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdaug.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def rrhf(logprobs: Tensor, tokens: Tensor, rewards: Tensor, *, alpha: float = 1.0, sft_weight: float = 1.0) -> Tensor:
    """Σ over pairs with r_j < r_i of max(0, s̃_j - s̃_i), and the supervised loss of the best (RRHF, arXiv 2304.05302).

    `logprobs` [n] are summed over `tokens` [n] each; s̃ = s/|y|^alpha. `rewards` [n], higher is better; equal ones are
    no pair. The supervised loss is the mean over the best answer's tokens (the first of several best).
    """
    scores = logprobs / tokens**alpha
    worse = rewards.unsqueeze(0) < rewards.unsqueeze(1)  # [i, j]: j is worse than i
    ranking = ((scores.unsqueeze(0) - scores.unsqueeze(1)).relu() * worse).sum()
    return ranking + sft_weight * _best_nll(logprobs, tokens, rewards)


def pro(logprobs: Tensor, tokens: Tensor, rewards: Tensor, *, unit: bool = False, sft_weight: float = 0.05) -> Tensor:
    """Each answer against all that are worse, the more sharply the wider apart their rewards (PRO, arXiv 2306.17492).

    With the answers by falling reward, s̄_k = `logprobs`/`tokens`, T_kj = r_k - r_j and T_k the largest of these:
    Σ_k log(exp(T_k s̄_k) + Σ_{j>k} exp(T_kj s̄_j)) - T_k s̄_k, and `sft_weight`·(n-1)² times the supervised loss of the
    best. All [n], in any order. `unit` sets every T to 1: Plackett-Luce. Raises ConfigError for equal rewards.
    """
    import torch

    rewards, order = rewards.sort(descending=True)
    if len(rewards) > 1 and not (rewards[:-1] > rewards[1:]).all():
        raise ConfigError(f"pro: two answers to one prompt have the same reward ({rewards.tolist()}): drop one of them")
    logprobs, tokens = logprobs[order], tokens[order]
    means = logprobs / tokens
    ranking = means.new_zeros(())
    for k in range(len(means) - 1):
        apart = rewards[k] - rewards[k + 1 :]
        sharpness = torch.cat([apart.max()[None], apart])
        terms = means[k:] * (torch.ones_like(sharpness) if unit else sharpness)
        ranking = ranking + terms.logsumexp(0) - terms[0]
    return ranking + sft_weight * (len(means) - 1) ** 2 * _best_nll(logprobs, tokens, rewards)


def _best_nll(logprobs: Tensor, tokens: Tensor, rewards: Tensor) -> Tensor:
    best = rewards.argmax()
    return -logprobs[best] / tokens[best]
