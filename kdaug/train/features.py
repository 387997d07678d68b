"""Distillation from inside: the student's hidden states are drawn to the teacher's, through a learned projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from kdaug.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Measure = Literal["mse", "cosine"]
Start = Literal["xavier", "kaiming", "identity", "zero"]


def layer_map(student_layers: int, teacher_layers: int, count: int | None = None) -> dict[int, int]:
    """Which of the teacher's layers each of the student's is matched with: at the same share of the depth.

    Layers are counted from the embeddings, which are 0: 1 is the first block's output. `count` takes that many of the
    student's, the last among them; all blocks if not given.
    """
    wanted: Sequence[int] = range(1, student_layers + 1)
    if count is not None:
        if not 1 <= count <= student_layers:
            raise ConfigError(f"layers: {count} of a student with {student_layers}: give a number from 1 to that")
        wanted = [round(i * student_layers / count) for i in range(1, count + 1)]
    return {layer: round(layer * teacher_layers / student_layers) for layer in wanted}


def projections(
    pairs: Mapping[int, int], student_width: int, teacher_width: int, start: Start = "xavier", seed: int = 0
) -> Any:
    """W [e, d] without a bias for each of the student's layers, as a torch `ModuleDict`: trained with the student.

    `identity` needs equal widths: raises ConfigError otherwise.
    """
    import torch
    from torch import nn

    if start == "identity" and student_width != teacher_width:
        raise ConfigError(f"projection: identity needs equal widths, these are {student_width} and {teacher_width}")
    found = nn.ModuleDict({str(layer): nn.Linear(student_width, teacher_width, bias=False) for layer in pairs})
    generator = torch.Generator().manual_seed(seed)
    for linear in found.values():
        if start == "xavier":
            nn.init.xavier_uniform_(linear.weight, generator=generator)
        elif start == "kaiming":
            nn.init.kaiming_uniform_(linear.weight, generator=generator)
        elif start == "identity":
            nn.init.eye_(linear.weight)
        else:
            nn.init.zeros_(linear.weight)
    return found


def hidden_distance(student: Tensor, teacher: Tensor, measure: Measure = "mse") -> Tensor:
    """How far each projected state is from the teacher's [N], both [N, e]: the mean squared difference, or 1 - cos.

    The teacher is a constant. Rows to be ignored are left out by the caller, before this.
    """
    from torch.nn import functional as F

    from kdaug.train.losses import widen

    if student.shape != teacher.shape:
        raise ConfigError(f"hidden states {list(student.shape)} and {list(teacher.shape)}: a projection is needed")
    ours, theirs = widen(student), widen(teacher.detach())
    if measure == "cosine":
        return 1 - F.cosine_similarity(ours, theirs, dim=-1)
    return (ours - theirs).square().mean(-1)


def feature_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    pairs: Mapping[int, int],
    projection: Any,
    mask: Tensor,
    measure: Measure = "mse",
) -> Tensor:
    """The mean over matched layers of the mean distance over tokens.

    `student` and `teacher` are hidden states by layer, embeddings first, [B, L, d] and [B, L, e] each; `mask` [B, L]
    says which tokens count: at the others there may be anything. `projection` is of `projections`.
    """
    import torch

    wanted = mask.bool()
    losses = [
        hidden_distance(projection[str(ours)](student[ours][wanted]), teacher[theirs][wanted], measure).sum()
        for ours, theirs in pairs.items()
    ]
    return torch.stack(losses).mean() / wanted.sum().clamp(min=1)
