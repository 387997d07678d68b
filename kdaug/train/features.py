"""Distillation from inside: the student's hidden states are drawn to the teacher's, through a learned projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdaug.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Measure = Literal["mse", "cosine"]
Start = Literal["auto", "xavier", "kaiming", "identity", "zero"]


def layer_map(student_layers: int, teacher_layers: int, count: int | None = None) -> dict[int, int]:
    """Which of the teacher's layers each of the student's is matched with: at the same share of the depth.

    Layers are counted from the embeddings, which are 0: 1 is the first block's output. `count` takes that many of the
    student's, the last among them; all blocks if not given.
    """
    wanted: Sequence[int] = range(1, student_layers + 1)
    if count is not None:
        if not 1 <= count <= student_layers:
            raise ConfigError(f"hidden_layers={count}: the student has {student_layers}: give a number from 1 to that")
        wanted = [round(i * student_layers / count) for i in range(1, count + 1)]
    return {layer: round(layer * teacher_layers / student_layers) for layer in wanted}


def projections(
    pairs: Mapping[int, int], student_width: int, teacher_width: int, start: Start = "auto", seed: int = 0
) -> Any:
    """W [e, d] without a bias for each of the student's layers, as a torch `ModuleDict`: trained with the student.

    `auto` begins as the identity where both widths are equal, else as `xavier`. Raises ConfigError for `identity` where
    they are not.
    """
    import torch
    from torch import nn

    if start == "auto":
        start = "identity" if student_width == teacher_width else "xavier"
    if start == "identity" and student_width != teacher_width:
        raise ConfigError(
            f"hidden_projection: identity needs equal widths, these are {student_width} and {teacher_width}"
        )
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


def feature_distance(
    student: Mapping[int, Tensor],
    teacher: Mapping[int, Tensor],
    pairs: Mapping[int, int],
    projection: Any,
    measure: Measure = "mse",
) -> Tensor:
    """The mean distance over matched layers [N]; `student` and `teacher` are the states by layer, [N, d] and [N, e].

    Only tokens that count are among the N. `projection` is of `projections`.
    """
    import torch

    apart = [
        hidden_distance(projection[str(ours)](student[ours]), teacher[theirs], measure)
        for ours, theirs in pairs.items()
    ]
    return torch.stack(apart).mean(0)


@dataclass(frozen=True, slots=True)
class Matching:
    """Which layers of the student are drawn to which of the teacher's, through what, and what counts as apart."""

    pairs: Mapping[int, int]
    projection: Any  # a torch ModuleDict, trained with the student and no part of it
    measure: Measure

    @classmethod
    def between(
        cls, student: Path, teacher: Path, *, count: int = 0, measure: Measure, start: Start, seed: int
    ) -> Matching:
        """By the configurations in two models' folders; `count` as in `layer_map`, 0: all."""
        from transformers import AutoConfig

        ours, theirs = (AutoConfig.from_pretrained(folder).get_text_config() for folder in (student, teacher))
        pairs = layer_map(ours.num_hidden_layers, theirs.num_hidden_layers, count or None)
        return cls(pairs, projections(pairs, ours.hidden_size, theirs.hidden_size, start, seed), measure)

    def distance(self, student: Mapping[int, Tensor], teacher: Mapping[int, Tensor]) -> Tensor:
        return feature_distance(student, teacher, self.pairs, self.projection, self.measure)
