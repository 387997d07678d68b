"""Distillation between models whose vocabularies differ: ULD, and GOLD's alignment of two tokenizations of one text.

A row is always the distribution that *predicts* its token: the row before it, as `Student.hidden` gives them. (The
released GOLD code takes the row after it when it merges by the first token.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kdaug.errors import ConfigError
from kdaug.train.divergences import jsd
from kdaug.train.losses import CHUNK, first_rows, in_chunks, linear_log_softmax, linear_logprobs

if TYPE_CHECKING:
    from torch import Tensor

Merge = Literal["first", "last"]
LEAST = math.log(1e-8)  # of a merged token's log-probability, as in GOLD's code: a group must not vanish for one token


def uld(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ|p_(i) - q_(i)| of each row, both sorted, the shorter padded with zeros [N] (ULD, arXiv 2402.12030, eq. 5).

    `log_p` [N, V'] and `log_q` [N, V]: rows of one place in two texts. From 0 to 2. It is 0 wherever one is a
    permutation of the other, so it is added to a cross-entropy, with a weight of 1.5 by its authors.
    """
    return _sorted_distance(log_p.exp(), log_q.exp())


def byte_ends(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Where each token ends in `text`, in UTF-8 bytes, by its character offsets from a tokenizer.

    Tokens that hold a part of a character all have its offsets: but for the last of them they end where it begins.
    """
    at = [0]
    for character in text:
        at.append(at[-1] + len(character.encode()))
    starts = [start for start, _ in offsets[1:]] + [len(text)]
    return [at[min(end, max(following, start))] for (start, end), following in zip(offsets, starts, strict=True)]


def align(student_ends: Sequence[int], teacher_ends: Sequence[int]) -> list[tuple[range, range]]:
    """The shortest groups of both sides' tokens that cover the same bytes, by where each token ends (`byte_ends`).

    What is left on both sides at the end is a last group; what is left on one side only is in none.
    """
    groups: list[tuple[range, range]] = []
    s = t = s_from = t_from = closed = 0
    while s < len(student_ends) and t < len(teacher_ends):
        s_end, t_end = student_ends[s], teacher_ends[t]
        s, t = s + (s_end <= t_end), t + (t_end <= s_end)
        if s_end == t_end > closed:
            groups.append((range(s_from, s), range(t_from, t)))
            s_from, t_from, closed = s, t, s_end
    if s_from < len(student_ends) and t_from < len(teacher_ends):
        groups.append((range(s_from, len(student_ends)), range(t_from, len(teacher_ends))))
    return groups


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One model's view of a text: states [N, d] of the rows that predict its tokens `ids` [N], and its head [V, d].

    The first `vocabulary` rows of the head count.
    """

    hidden: Tensor
    head: Tensor
    ids: Tensor
    vocabulary: int


def merged(log_p: Tensor, ids: Tensor, groups: Sequence[range], merge: Merge = "first") -> Tensor:
    """A row for each group of tokens [G, V], in logarithms and not normalised, of rows `log_p` [N, V] and `ids` [N].

    `first`: the row of the group's first token, times the probabilities of those after it. `last`: the row of its last
    token, times the probabilities of those before it (GOLD's `observed` and `bayesian`).
    """
    own = log_p.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    places, others, owners = _split(groups, merge)
    return log_p[places] + _product(own[others], owners, len(places)).unsqueeze(-1)


def linear_aligned_divergence(
    student: Side,
    teacher: Side,
    groups: Sequence[tuple[range, range]],
    divergence: Callable[[Tensor, Tensor], Tensor] = uld,
    *,
    merge: Merge = "first",
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> Tensor:
    """`divergence` of the `merged` rows of each group [G], without ever holding the logits.

    `groups` (`align`) are places in the two sides' N. `divergence`: `uld`, or a `Shared.hybrid`. The mean over an
    answer's groups, then over answers, is GOLD's. Only the student has a gradient; no groups give an empty result.
    """
    import torch

    heads = [first_rows(side.head, side.vocabulary) for side in (student, teacher)]

    def rows(side: Side, head: Tensor, own: Sequence[range]) -> tuple[Tensor, Tensor]:
        places, others, owners = _split(own, merge)
        logprobs = linear_logprobs(side.hidden[others] / temperature, head, side.ids[others], chunk)
        return side.hidden[places], _product(logprobs, owners, len(places))

    def piece(states: Tensor, factor: Tensor, guide: Tensor, guide_factor: Tensor) -> Tensor:
        with torch.no_grad():
            log_p = linear_log_softmax(guide, heads[1], temperature) + guide_factor.unsqueeze(-1)
        return divergence(log_p, linear_log_softmax(states, heads[0], temperature) + factor.unsqueeze(-1))

    with torch.no_grad():
        theirs = rows(teacher, heads[1], [t for _, t in groups])
    return in_chunks(piece, chunk, *rows(student, heads[0], [s for s, _ in groups]), *theirs)


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What two vocabularies have in common: `student[i]` and `teacher[i]` are the same token; the rest of both ids."""

    student: Tensor
    teacher: Tensor
    other_student: Tensor
    other_teacher: Tensor

    @classmethod
    def of(cls, student: Mapping[str, int], teacher: Mapping[str, int], device: str = "cpu") -> Shared:
        """By the tokens' strings, a leading space of SentencePiece taken for that of byte-level BPE."""
        import torch

        ours, theirs = ({token.replace("▁", "Ġ"): id for token, id in v.items()} for v in (student, teacher))
        both = sorted((theirs[token], ours[token]) for token in ours.keys() & theirs.keys())
        shared = [s for _, s in both], [t for t, _ in both]
        rest = [sorted(set(v.values()) - set(s)) for v, s in zip((student, teacher), shared, strict=True)]
        return cls(*(torch.tensor(ids, dtype=torch.long, device=device) for ids in (*shared, *rest)))

    @property
    def share(self) -> float:
        """How much of the teacher's vocabulary the student has."""
        return len(self.teacher) / max(1, len(self.teacher) + len(self.other_teacher))

    def hybrid(
        self, log_p: Tensor, log_q: Tensor, beta: float = 0.5, weights: tuple[float, float] | None = None
    ) -> Tensor:
        """`jsd` of the shared tokens, as they are, and `uld` of the others [N]; `log_p` [N, V'], `log_q` [N, V].

        `weights` of the two; by default `share` and the rest. With nothing in common it is `uld`. Raises ConfigError
        where a row is shorter than the vocabulary.
        """
        for name, rows, ids in (
            ("teacher", log_p, (self.teacher, self.other_teacher)),
            ("student", log_q, (self.student, self.other_student)),
        ):
            if rows.shape[-1] < sum(len(i) for i in ids):
                raise ConfigError(
                    f"the {name}'s rows have {rows.shape[-1]} tokens, its vocabulary {len(ids[0])}+{len(ids[1])}"
                )
        matched, unmatched = (self.share, 1 - self.share) if weights is None else weights
        same = jsd(log_p[:, self.teacher], log_q[:, self.student], beta)
        rest = _sorted_distance(log_p[:, self.other_teacher].exp(), log_q[:, self.other_student].exp())
        return matched * same + unmatched * rest


def _sorted_distance(p: Tensor, q: Tensor) -> Tensor:
    from torch.nn import functional as F

    p, q = (x.sort(-1, descending=True).values for x in (p, q))
    width = max(p.shape[-1], q.shape[-1])
    p, q = (F.pad(x, (0, width - x.shape[-1])) for x in (p, q))
    return (p - q).abs().sum(-1)


def _split(groups: Sequence[range], merge: Merge) -> tuple[list[int], list[int], list[int]]:
    """The place whose row stands for each group; the places of the other tokens, and the group of each of these."""
    places = [group[0 if merge == "first" else -1] for group in groups]
    rest = [(i, g) for g, group in enumerate(groups) for i in group if i != places[g]]
    return places, [i for i, _ in rest], [g for _, g in rest]


def _product(logprobs: Tensor, owners: Sequence[int], groups: int) -> Tensor:
    """log of the product of each group's probabilities [G]; 0 for a group without any."""
    import torch

    total = logprobs.new_zeros(groups)
    return total.index_add(0, torch.tensor(owners, dtype=torch.long, device=total.device), logprobs.clamp(min=LEAST))
