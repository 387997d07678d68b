"""How far a student's next-token distribution is from its teacher's: divergences of rows of log-probabilities.

Each takes `log_p` (the teacher's) and `log_q` (the student's) [N, V], log-softmaxes over one vocabulary, and returns
[N], in nats. A temperature is the caller's: log softmax(z/T); none of them multiplies by T². What the teacher excludes
(log p = -inf) weighs nothing, as 0·log 0 = 0; no ε is ever added. All raise ConfigError where the vocabularies differ
in size, or a parameter is out of its range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from kdaug.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Tail = Literal["bucket", "uniform", "zero"]
Renormalise = Literal["none", "teacher", "both"]
TAILS, RENORMALISE = get_args(Tail), get_args(Renormalise)
INFINITY = float("inf")


def forward_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p‖q): covers all that the teacher would say (word-level distillation, arXiv 1503.02531)."""
    _check(log_p, log_q)
    return _kl(log_p, log_q)


def cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """-Σ p log q = KL(p‖q) + H(p): the gradient of `forward_kl` with another value, the one that MiniLLM reports."""
    _check(log_p, log_q)
    return -_expect(log_p, log_q)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(q‖p) of each token: seeks the teacher's modes (MiniLLM, arXiv 2306.08543, a token at a time).

    It is infinite where the student may say what the teacher excludes: exclude that in both.
    """
    _check(log_p, log_q)
    return _kl(log_q, log_p)


def jsd(log_p: Tensor, log_q: Tensor, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon: β KL(p‖m) + (1-β) KL(q‖m) with m = βp + (1-β)q (GKD, arXiv 2306.13649).

    By convention β = 0 is KL(p‖q) and β = 1 is KL(q‖p), although it tends to 0 as β tends to either. DistiLLM's code
    calls 1-β what is β here.
    """
    _check(log_p, log_q, beta=beta)
    if beta in (0.0, 1.0):
        return _kl(log_q, log_p) if beta else _kl(log_p, log_q)
    log_m = _mixture(log_p, log_q, beta)
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def skew_kl(log_p: Tensor, log_q: Tensor, alpha: float = 0.1) -> Tensor:
    """KL(p ‖ αp + (1-α)q), at most -log α (DistiLLM, arXiv 2402.03898, eq. 3); α = 0 is `forward_kl`."""
    _check(log_p, log_q, alpha=alpha)
    return _kl(log_p, _mixture(log_p, log_q, alpha))


def skew_cross_entropy(log_p: Tensor, log_q: Tensor, alpha: float = 0.1) -> Tensor:
    """-Σ p log(αp + (1-α)q) = `skew_kl` + H(p): the value that DistiLLM's code reports."""
    _check(log_p, log_q, alpha=alpha)
    return -_expect(log_p, _mixture(log_p, log_q, alpha))


def skew_reverse_kl(log_p: Tensor, log_q: Tensor, alpha: float = 0.1) -> Tensor:
    """KL(q ‖ (1-α)p + αq), at most -log α (DistiLLM, arXiv 2402.03898, eq. 4); α = 0 is `reverse_kl`."""
    _check(log_p, log_q, alpha=alpha)
    return _kl(log_q, _mixture(log_q, log_p, alpha))


def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """½ Σ|p - q|, from 0 to 1; where p = q its gradient is 0."""
    _check(log_p, log_q)
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def adaptive_kl(log_p: Tensor, log_q: Tensor, mu: float = 0.5) -> Tensor:
    """w·KL(p‖q) + (1-w)·KL(q‖p), w being the share of Σ|p - q| in the teacher's head (AKL, arXiv 2404.02657).

    The head is the fewest of the likeliest tokens that hold `mu` of the teacher's mass. w is a constant to the
    gradient, and ½ where p = q.
    """
    import torch

    _check(log_p, log_q, mu=mu)
    with torch.no_grad():
        p = log_p.exp()
        gaps = (p - log_q.exp()).abs()
        mass, order = p.sort(-1, descending=True)
        head = (mass.cumsum(-1) - mass < mu) * gaps.gather(-1, order)
        total = gaps.sum(-1)
        weight = torch.where(total > 0, head.sum(-1) / total, 0.5)
    return weight * _kl(log_p, log_q) + (1 - weight) * _kl(log_q, log_p)


def interpolated(log_p: Tensor, log_q: Tensor, t: float) -> Tensor:
    """log softmax((1-t)·z_q + t·z_p) [N, V]: TAID's target on the way from student (t = 0) to teacher (t = 1).

    Log-probabilities are logits but for a constant, so they are interpolated here. No gradient flows into the student.
    """
    _check(log_p, log_q, t=t)
    if t in (0.0, 1.0):  # 0·(-inf) is no number
        return log_p if t else log_q.detach()
    return ((1 - t) * log_q.detach() + t * log_p).log_softmax(-1)


def taid(log_p: Tensor, log_q: Tensor, t: float) -> Tensor:
    """-Σ p_t log q, p_t being `interpolated` (TAID, arXiv 2501.16937): cross-entropy, as its authors report it."""
    return cross_entropy(interpolated(log_p, log_q, t), log_q)


@dataclass(frozen=True, slots=True)
class TaidSchedule:
    """TAID's t over a training: a straight line from `start` to `end`, ahead of it while the loss falls (§4.2).

    Begin with `TaidSchedule.begin(start=…)`. Each optimiser step's loss is taken at `t`; then `after` gives the next
    schedule. t never falls. The fields are all of its state.
    """

    start: float = 0.4
    end: float = 1.0
    alpha: float = 5e-4
    beta: float = 0.99
    adaptive: bool = True
    t: float = 0.4
    momentum: float = 0.0
    previous: float | None = None

    @classmethod
    def begin(
        cls, *, start: float = 0.4, end: float = 1.0, alpha: float = 5e-4, beta: float = 0.99, adaptive: bool = True
    ) -> TaidSchedule:
        """The schedule before the first step. Raises ConfigError unless 0 <= start <= end <= 1."""
        if not 0 <= start <= end <= 1:
            raise ConfigError(f"taid: from t={start} to t={end}: give 0 <= start <= end <= 1")
        return cls(start, end, alpha, beta, adaptive, start)

    def after(self, loss: float, step: int, total: int) -> TaidSchedule:
        """After optimiser step `step` of `total`, with the loss of all its micro-batches."""
        line = self.start + step / total * (self.end - self.start)
        if not self.adaptive:
            return replace(self, t=min(self.end, max(self.t, line)))
        if self.previous is None:
            return replace(self, previous=loss)
        fall = (self.previous - loss) / (self.previous + 1e-15)
        momentum = self.beta * self.momentum + (1 - self.beta) * fall
        ahead = self.t + self.alpha / (1 + math.exp(-momentum)) * (1 - self.t)
        return replace(self, t=min(self.end, max(line, ahead)), momentum=momentum, previous=loss)


def top_k_kl(
    top_ids: Tensor,
    top_log_p: Tensor,
    log_q: Tensor,
    tail: Tail = "bucket",
    renormalise: Renormalise = "none",
    *,
    residual: Tensor | None = None,
) -> Tensor:
    """KL(p‖q) in nats [N] where of p only the k likeliest tokens are known: K = `top_ids`, log p = `top_log_p` [N, k].

    `log_q` [N, V] is the student's. ρ, the teacher's mass outside K, is `residual` [N] where that was stored (then
    p is scaled to 1-ρ on K, which takes out what rounding did to it), else 1 - Σ_K p. `tail` says what becomes of it:

    - `bucket`: all other tokens are one: Σ_K p log(p/q) + ρ log(ρ/(1-Σ_K q)). From 0 to the KL of the whole
      vocabulary, which it reaches at k = V (log-sum inequality).
    - `uniform`: every other token has ρ/(V-k). It may exceed the KL of the whole.
    - `zero`: ρ is ignored: Σ_K p log(p/q), which may be negative. `renormalise` makes a divergence of it: `teacher`
      scales p to 1 on K, `both` also q.

    A place of K without a token has log p = -inf and repeats an id of its row. Raises ConfigError for another `tail` or
    `renormalise`, for `renormalise` with a tail that needs none, and where K is larger than V.
    """
    _check_top_k(tail, renormalise, top_ids.shape[-1], log_q.shape[-1])
    mass = top_log_p.logsumexp(-1, keepdim=True)
    log_rest = _log_rest(mass.squeeze(-1)) if residual is None else residual.clamp(0, 1).log()
    if renormalise != "none":
        top_log_p = top_log_p - mass
    elif residual is not None:
        top_log_p = top_log_p - mass + (-residual.clamp(0, 1)).log1p().unsqueeze(-1)
    absent = top_log_p == -INFINITY
    top_log_q = log_q.gather(-1, top_ids)
    if renormalise == "both":
        top_log_q = top_log_q.masked_fill(absent, -INFINITY).log_softmax(-1)
    kl = (top_log_p.exp() * (top_log_p - top_log_q).masked_fill(absent, 0.0)).sum(-1)
    return kl if tail == "zero" else kl + _tail_kl(tail, log_rest, top_ids, absent, log_q)


# By the literature's names, as a trainer's users give them. Parameters are keywords: beta, alpha, mu; t of `taid`.
DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_kl": skew_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
    "adaptive_kl": adaptive_kl,
    "taid": taid,
}


def _check(log_p: Tensor, log_q: Tensor, **shares: float) -> None:
    if log_p.shape != log_q.shape:
        raise ConfigError(
            f"the teacher's probabilities have the shape {list(log_p.shape)}, the student's {list(log_q.shape)}: for "
            "two vocabularies use a loss across vocabularies (uld, gold)"
        )
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{name}={share}: give a number from 0 to 1")


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a‖b). Where a is 0 the ratio is replaced before it is used: so no NaN gets into the gradient either."""
    ratio = (log_a - log_b).masked_fill(log_a == -INFINITY, 0.0)
    return (log_a.exp() * ratio).sum(-1)


def _expect(log_a: Tensor, values: Tensor) -> Tensor:
    """Σ a·values."""
    return (log_a.exp() * values.masked_fill(log_a == -INFINITY, 0.0)).sum(-1)


def _mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """log(share·a + (1-share)·b)."""
    import torch

    if share in (0.0, 1.0):
        return log_a if share else log_b
    # Where both are -inf the gradient of logaddexp would be NaN: so they are made finite.
    lowest = torch.finfo(log_a.dtype).min / 4
    return torch.logaddexp(log_a.clamp(min=lowest) + math.log(share), log_b.clamp(min=lowest) + math.log1p(-share))


def _tail_kl(tail: Tail, log_rest: Tensor, top_ids: Tensor, absent: Tensor, log_q: Tensor) -> Tensor:
    """What the teacher's mass outside its top k adds to the divergence [N]."""
    others = log_q.shape[-1] - (~absent).sum(-1)
    if not others.any():
        return log_rest.new_zeros(log_rest.shape)
    if tail == "bucket":
        ratio = log_rest - log_q.scatter(-1, top_ids, -INFINITY).logsumexp(-1)
    else:
        outside = log_q.sum(-1) - log_q.gather(-1, top_ids).masked_fill(absent, 0.0).sum(-1)
        ratio = log_rest - others.log() - outside / others
    return log_rest.exp() * ratio.masked_fill(log_rest == -INFINITY, 0.0)


def _log_rest(log_mass: Tensor) -> Tensor:
    """log(1 - Σ_K p) from log Σ_K p; log 0 where that is 1 but for rounding."""
    import torch

    limit = -torch.finfo(log_mass.dtype).eps
    return torch.where(log_mass < limit, (-log_mass.clamp(max=limit).expm1()).log(), -INFINITY)


def _check_top_k(tail: Tail, renormalise: Renormalise, k: int, vocabulary: int) -> None:
    if tail not in TAILS:
        raise ConfigError(f"tail={tail!r}: give one of {', '.join(TAILS)}")
    if renormalise not in RENORMALISE:
        raise ConfigError(f"renormalise={renormalise!r}: give one of {', '.join(RENORMALISE)}")
    if renormalise != "none" and tail != "zero":
        raise ConfigError(f"renormalise={renormalise!r} with tail={tail!r}: that tail needs none, so take tail='zero'")
    if k > vocabulary:
        raise ConfigError(f"the teacher's top {k} tokens are more than the student's vocabulary of {vocabulary}")
