"""Losses of a reward model: scores of whole answers, against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def bradley_terry(chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0, centring: float = 0.0) -> Tensor:
    """-log σ(r_c - r_r - m) + c·(r_c + r_r)² of each pair [N] (InstructGPT, arXiv 2203.02155, eq. 1).

    `margin` m, of all or of each pair: by how much the better answer must win (Llama 2, arXiv 2307.09288, eq. 2).
    `centring` c holds the scores around 0 (arXiv 2312.09244); without it only differences matter.
    """
    from torch.nn import functional as F

    return -F.logsigmoid(chosen - rejected - margin) + centring * (chosen + rejected) ** 2


def soft_bradley_terry(chosen: Tensor, rejected: Tensor, preference: Tensor) -> Tensor:
    """-P log σ(Δ) - (1-P) log σ(-Δ) of each pair [N], least where σ(Δ) = P (RLAIF, arXiv 2309.00267).

    `preference` [N]: P, the probability that the chosen answer is the better one.
    """
    from torch.nn import functional as F

    apart = chosen - rejected
    return -preference * F.logsigmoid(apart) - (1 - preference) * F.logsigmoid(-apart)


def ranked_bradley_terry(scores: Tensor, rewards: Tensor) -> Tensor:
    """The mean of `bradley_terry` over all pairs of the n answers to one prompt that differ in reward; 0 without any.

    `scores` [n] are the model's, `rewards` [n] the labels. All pairs of a prompt belong into one step (InstructGPT).
    """
    import torch

    better, worse = torch.nonzero(rewards.unsqueeze(1) > rewards.unsqueeze(0), as_tuple=True)
    return bradley_terry(scores[better], scores[worse]).sum() / max(1, len(better))


def accuracy(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 for each pair that is ranked as its label says, ½ for a tie, else 0 [N]."""
    return 0.5 + 0.5 * (chosen - rejected).sign()


def last_token(mask: Tensor) -> Tensor:
    """The place of each row's last real token [B], by its attention mask [B, L]: an end-of-text token may also pad."""
    import torch

    places = torch.arange(mask.shape[1], device=mask.device)
    return (places * mask.bool()).argmax(1)
