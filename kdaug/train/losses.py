"""Losses as pure functions of tensors; shapes in brackets. All sums run in float32 or wider."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kdaug.errors import ConfigError
from kdaug.train.divergences import Renormalise, Tail, top_k_kl

if TYPE_CHECKING:
    from torch import Tensor

# Tokens whose logits exist at one time: 512 rows of a vocabulary of 150,000 are 300 MB in float32.
CHUNK = 512


def linear_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """log softmax(hidden @ weight.T)[target] for each token [N], without ever holding the logits [N, V].

    `hidden` [N, d], `weight` [V, d], `targets` [N]; minus the sum is the cross-entropy.
    """
    from torch.nn import functional as F

    def piece(h: Tensor, y: Tensor) -> Tensor:
        return -F.cross_entropy(widen(F.linear(h, weight)), y, reduction="none")

    return in_chunks(piece, chunk, hidden, targets)


def linear_divergence(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    divergence: Callable[[Tensor, Tensor], Tensor],
    *,
    vocabulary: int,
    teacher_vocabulary: int | None = None,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> Tensor:
    """`divergence` between teacher and student for each token [N], without ever holding the logits [N, V].

    `student_hidden` [N, d] and `student_head` [V, d], `teacher_hidden` [N, e] and `teacher_head` [V', e]: the first
    `vocabulary` rows of the heads count, as heads may be padded; of the teacher's `teacher_vocabulary`, where it has
    its own (`cross_vocabulary.uld`). `divergence` is one of `divergences`, its parameters bound. Both logits are
    divided by `temperature`; the result is not multiplied by its square. Only the student has a gradient. Raises
    ConfigError where a head has fewer rows than `vocabulary`.
    """
    import torch

    student_head = first_rows(student_head, vocabulary)
    teacher_head = first_rows(teacher_head, teacher_vocabulary or vocabulary)

    def piece(student: Tensor, teacher: Tensor) -> Tensor:
        with torch.no_grad():
            log_p = linear_log_softmax(teacher, teacher_head, temperature)
        return divergence(log_p, linear_log_softmax(student, student_head, temperature))

    return in_chunks(piece, chunk, student_hidden, teacher_hidden)


def linear_top_k_divergence(
    student_hidden: Tensor,
    student_head: Tensor,
    top_ids: Tensor,
    top_log_p: Tensor,
    *,
    vocabulary: int,
    residual: Tensor | None = None,
    tail: Tail = "bucket",
    renormalise: Renormalise = "none",
    chunk: int = CHUNK,
) -> Tensor:
    """`divergences.top_k_kl` for each token [N], without ever holding the logits [N, V].

    `student_hidden` [N, d], `student_head` [V, d], of which the first `vocabulary` rows count; the teacher's stored
    `top_ids` and `top_log_p` [N, k] and, where it was stored, the `residual` [N]. At temperature 1, as they were
    stored: what the teacher's tail is at another cannot be known. Raises ConfigError as both of them do.
    """
    student_head = first_rows(student_head, vocabulary)

    def piece(student: Tensor, ids: Tensor, log_p: Tensor, *rest: Tensor) -> Tensor:
        log_q = linear_log_softmax(student, student_head)
        return top_k_kl(ids, widen(log_p), log_q, tail, renormalise, residual=widen(rest[0]) if rest else None)

    return in_chunks(piece, chunk, student_hidden, top_ids, top_log_p, *([] if residual is None else [residual]))


def token_mean(values: Tensor, mask: Tensor, total: float | Tensor | None = None) -> Tensor:
    """Σ m·ℓ / Σ m of `values` and `mask` [B, L]: every token weighs the same.

    `total` is the tokens of the whole step, where this is a part of it. What is masked may hold anything, NaN too; no
    token at all gives 0.
    """
    import torch

    counted = mask.bool()
    count = counted.sum() if total is None else torch.as_tensor(total, dtype=values.dtype, device=values.device)
    return _masked(values, counted).sum() / count.clamp(min=1)


def seq_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over rows of each row's mean over its tokens: every sequence weighs the same; an empty row gives 0."""
    counted = mask.bool()
    return (_masked(values, counted).sum(-1) / counted.sum(-1).clamp(min=1)).mean()


def seq_sum(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over rows of each row's sum over its tokens: long sequences weigh more; an empty row gives 0."""
    return _masked(values, mask.bool()).sum(-1).mean()


def widen(tensor: Tensor) -> Tensor:
    """In float32, or in float64 where it was."""
    import torch

    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    import torch

    return torch.where(mask, values, 0.0)  # a product would keep NaN


def first_rows(head: Tensor, vocabulary: int) -> Tensor:
    """The first rows of a head; itself where that is all, for autocast keeps its copies of parameters only."""
    if head.shape[0] < vocabulary:
        raise ConfigError(
            f"a head of {head.shape[0]} rows has no logits for a vocabulary of {vocabulary}: for two vocabularies use "
            "a loss across vocabularies (uld, gold)"
        )
    return head if head.shape[0] == vocabulary else head[:vocabulary]


def linear_log_softmax(hidden: Tensor, head: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(hidden @ head.T / T) [N, V], in float32 or wider."""
    from torch.nn import functional as F

    logits = widen(F.linear(hidden, head))
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def in_chunks(piece: Callable[..., Tensor], chunk: int, *rows: Tensor) -> Tensor:
    """`piece` of `chunk` rows at a time, the results joined [N].

    What a chunk computes is forgotten and computed again in the backward pass, but for the last one's, which is the
    first to be needed there.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    *others, last = zip(*(r.split(chunk) for r in rows), strict=True)
    parts = [checkpoint(piece, *each, use_reentrant=False, preserve_rng_state=False) for each in others]
    return torch.cat([*parts, piece(*last)])
