"""Losses as pure functions of tensors; shapes in brackets. All sums run in float32 or wider."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Tokens whose logits exist at one time: 512 rows of a vocabulary of 150,000 are 300 MB in float32.
CHUNK = 512


def linear_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """log softmax(hidden @ weight.T)[target] for each token [N], without ever holding the logits [N, V].

    `hidden` [N, d], `weight` [V, d], `targets` [N]; minus the sum is the cross-entropy. A chunk's logits are forgotten
    and computed again in the backward pass, but for the last one's, which is the first to be needed there.
    """
    import torch
    from torch.nn import functional as F
    from torch.utils.checkpoint import checkpoint

    def piece(h: Tensor, y: Tensor) -> Tensor:
        return -F.cross_entropy(widen(F.linear(h, weight)), y, reduction="none")

    *others, last = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    parts = [checkpoint(piece, h, y, use_reentrant=False, preserve_rng_state=False) for h, y in others]
    return torch.cat([*parts, piece(*last)])


def dpo_margin(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    """h = (s_c - s_ref,c) - (s_r - s_ref,r) of each pair [N]; s are summed log-probabilities of the answers."""
    return (chosen - ref_chosen) - (rejected - ref_rejected)


def dpo(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-log σ(βh) of each pair [N] (DPO, arXiv 2305.18290, eq. 7).

    With `label_smoothing` ε the labels are taken to be wrong with probability ε: -(1-ε) log σ(βh) - ε log σ(-βh)
    (conservative DPO, same authors).
    """
    from torch.nn import functional as F

    right, wrong = F.logsigmoid(beta * margin), F.logsigmoid(-beta * margin)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def widen(tensor: Tensor) -> Tensor:
    """In float32, or in float64 where it was."""
    import torch

    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
