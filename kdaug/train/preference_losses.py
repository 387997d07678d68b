"""Preference losses from the log-probabilities of whole answers: DPO and its family, those without a reference, KTO.

`PREFERENCE_LOSSES` has those of pairs by the literature's names, each with what it needs. All are written with

    a = s_c - s_ref,c    b = s_r - s_ref,r    h = a - b    s̄ = s/|y|

s being an answer's summed log-probability and |y| its number of tokens, c the chosen and r the rejected answer.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from kdaug.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

MISSING = "this loss compares with a reference: give the pairs its log-probabilities"


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Two answers to each of N prompts; every field is [N].

    `chosen` and `rejected` are summed log-probabilities in float32 or wider, `chosen_tokens` and `rejected_tokens` the
    numbers of tokens summed. `ref_chosen` and `ref_rejected` are the reference's, for losses that need them;
    `preference` is the probability that the chosen answer is the better one, where labels are soft.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    ref_chosen: Tensor | None = None
    ref_rejected: Tensor | None = None
    preference: Tensor | None = None

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """s̄ of both: the mean log-probability of a token."""
        return self.chosen / self.chosen_tokens, self.rejected / self.rejected_tokens

    @property
    def ratios(self) -> tuple[Tensor, Tensor]:
        """a and b: by how much the student likes each answer more than the reference does."""
        if self.ref_chosen is None or self.ref_rejected is None:
            raise ConfigError(MISSING)
        return self.chosen - self.ref_chosen, self.rejected - self.ref_rejected

    @property
    def mean_ratios(self) -> tuple[Tensor, Tensor]:
        """a/|y_c| and b/|y_r|."""
        a, b = self.ratios
        return a / self.chosen_tokens, b / self.rejected_tokens

    @property
    def margin(self) -> Tensor:
        """h: over 0 where the student has moved from the reference towards the chosen answer."""
        a, b = self.ratios
        return a - b

    @property
    def nll(self) -> Tensor:
        """-s̄_c: the supervised loss of the chosen answer, the mean over its tokens."""
        return -self.chosen / self.chosen_tokens


def dpo(pairs: Pairs, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """-log σ(βh) (DPO, arXiv 2305.18290, eq. 7); with `label_smoothing` it is `cdpo`."""
    return _smoothed(beta * pairs.margin, label_smoothing)


def cdpo(pairs: Pairs, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """-(1-ε) log σ(βh) - ε log σ(-βh): labels are wrong with probability ε (conservative DPO, its authors' note)."""
    return _smoothed(beta * pairs.margin, label_smoothing)


def robust_dpo(pairs: Pairs, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """cDPO without its bias: [-(1-ε) log σ(βh) + ε log σ(-βh)] / (1-2ε) (arXiv 2403.00409)."""
    u = beta * pairs.margin
    flipped = -(1 - label_smoothing) * _log_sigmoid(u) + label_smoothing * _log_sigmoid(-u)
    return flipped / (1 - 2 * label_smoothing)


def soft_dpo(pairs: Pairs, beta: float = 0.1) -> Tensor:
    """-P log σ(βh) - (1-P) log σ(-βh), P being `pairs.preference`: a judge's probability instead of a label."""
    if pairs.preference is None:
        raise ConfigError("soft_dpo needs how probable it is that the chosen answer is the better: give `preference`")
    return _smoothed(beta * pairs.margin, 1 - pairs.preference)


def ipo(pairs: Pairs, beta: float = 0.1, length_normalise: bool = True) -> Tensor:
    """(h - 1/(2β))², the log-ratios being means over tokens unless told otherwise (IPO, arXiv 2310.12036, eq. 17).

    The paper has sums; its authors have said that they averaged.
    """
    a, b = pairs.mean_ratios if length_normalise else pairs.ratios
    return (a - b - 1 / (2 * beta)) ** 2


def hinge(pairs: Pairs, beta: float = 0.1) -> Tensor:
    """max(0, 1 - βh) (SLiC's loss on DPO's margin, arXiv 2305.10425, 2309.06657)."""
    return (1 - beta * pairs.margin).relu()


def dpo_norm(pairs: Pairs, beta: float = 5.0) -> Tensor:
    """-log σ(β(a/|y_c| - b/|y_r|)): length-normalised DPO (Tülu 3, arXiv 2411.15124, §5)."""
    a, b = pairs.mean_ratios
    return -_log_sigmoid(beta * (a - b))


FDivergence = Literal["forward_kl", "js", "alpha"]
F_DIVERGENCES = get_args(FDivergence)


def f_dpo(pairs: Pairs, beta: float = 0.1, divergence: FDivergence = "js", alpha: float = 0.5) -> Tensor:
    """-log σ(β(φ(a) - φ(b))): DPO with another divergence than the reverse KL, φ(x) = x (f-DPO, arXiv 2309.16240).

    forward_kl: φ = -exp(-x); js: φ = log σ(x); alpha: φ = exp((α-1)x)/(α-1), which is DPO at α = 1.
    """
    a, b = pairs.ratios
    if divergence == "forward_kl":
        difference = _exp(-b) - _exp(-a)
    elif divergence == "js":
        difference = _log_sigmoid(a) - _log_sigmoid(b)
    else:
        power = alpha - 1
        difference = a - b if abs(power) < 1e-6 else (_exp(power * a) - _exp(power * b)) / power
    return -_log_sigmoid(beta * difference)


def exo(pairs: Pairs, beta: float = 0.1, label_smoothing: float = 1e-3) -> Tensor:
    """KL of (σ(βh), σ(-βh)) from (1-ε, ε): a reverse KL to the labels (EXO for pairs, arXiv 2402.00856, eq. 16)."""
    u = beta * pairs.margin
    right = u.sigmoid() * (_log_sigmoid(u) - math.log1p(-label_smoothing))
    return right + (-u).sigmoid() * (_log_sigmoid(-u) - math.log(label_smoothing))


def nca(pairs: Pairs, beta: float = 0.1) -> Tensor:
    """-log σ(βa) - ½ log σ(-βa) - ½ log σ(-βb): keeps the chosen answer likely (NCA for pairs, arXiv 2402.05369)."""
    a, b = pairs.ratios
    return -_log_sigmoid(beta * a) - 0.5 * _log_sigmoid(-beta * a) - 0.5 * _log_sigmoid(-beta * b)


def bco(pairs: Pairs, beta: float = 0.1, delta: float = 0.0) -> Tensor:
    """-log σ(βa - δ) - log σ(δ - βb): a classifier of good and bad answers (BCO, arXiv 2404.04656)."""
    a, b = pairs.ratios
    return -_log_sigmoid(beta * a - delta) - _log_sigmoid(delta - beta * b)


def sppo_hard(pairs: Pairs, beta: float = 1e-3) -> Tensor:
    """(a - 1/(2β))² + (b + 1/(2β))²: the winner wins for sure (SPPO, arXiv 2405.00675, eq. 4.7; η = 1/β = 1000)."""
    a, b = pairs.ratios
    return (a - 0.5 / beta) ** 2 + (b + 0.5 / beta) ** 2


def apo_zero(pairs: Pairs, beta: float = 0.1) -> Tensor:
    """1 - σ(βa) + σ(βb): for chosen answers better than the student's own (APO, arXiv 2408.06266, eq. 7)."""
    a, b = pairs.ratios
    return 1 - (beta * a).sigmoid() + (beta * b).sigmoid()


def apo_down(pairs: Pairs, beta: float = 0.1) -> Tensor:
    """σ(βa) + 1 - σ(βh): for chosen answers worse than the student's own (APO, arXiv 2408.06266, eq. 8)."""
    a, b = pairs.ratios
    return (beta * a).sigmoid() + 1 - (beta * (a - b)).sigmoid()


def aot(pairs: Pairs, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """DPO on sorted differences: the student's and the reference's, each in order (AOT, arXiv 2406.05882).

    It compares the two distributions over the pairs that it is given, so it needs many; its N values are no pair's own.
    """
    if pairs.ref_chosen is None or pairs.ref_rejected is None:
        raise ConfigError(MISSING)
    ours = (pairs.chosen - pairs.rejected).sort().values
    return _smoothed(beta * (ours - (pairs.ref_chosen - pairs.ref_rejected).sort().values), label_smoothing)


def simpo(pairs: Pairs, beta: float = 2.0, gamma_over_beta: float = 0.5) -> Tensor:
    """-log σ(β(s̄_c - s̄_r) - γ) (SimPO, arXiv 2405.14734, eq. 6; the defaults are those of Llama 3 8B base)."""
    chosen, rejected = pairs.means
    return -_log_sigmoid(beta * (chosen - rejected - gamma_over_beta))


def orpo(pairs: Pairs, beta: float = 0.1) -> Tensor:
    """-s̄_c - β log σ(Λ), Λ the difference of log(P/(1-P)), P = exp(s̄) (ORPO, arXiv 2403.07691, eq. 6-7; its λ)."""
    chosen, rejected = (s.clamp(max=-1e-6) for s in pairs.means)  # P = 1 has no odds
    odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    return pairs.nll - beta * _log_sigmoid(odds)


def cpo(pairs: Pairs, beta: float = 0.1, alpha: float = 1.0) -> Tensor:
    """-log σ(β(s_c - s_r)) - α s̄_c: DPO with a uniform reference, and the supervised loss (CPO, arXiv 2401.08417)."""
    return alpha * pairs.nll - _log_sigmoid(beta * (pairs.chosen - pairs.rejected))


Score = Literal["ratio", "mean", "sum"]


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """A loss of pairs and what it needs.

    `score` is what it makes of an answer: `ratio`, its log-probability over the reference's, so it needs one; `mean` or
    `sum`, its log-probability by itself. Times β this is the implicit reward.
    """

    name: str
    function: Callable[..., Tensor]
    score: Score = "ratio"

    @property
    def needs_reference(self) -> bool:
        return self.score == "ratio"

    @property
    def parameters(self) -> Mapping[str, object]:
        """Every parameter with its default; all have `beta`."""
        after_pairs = list(inspect.signature(self.function).parameters.values())[1:]
        return {p.name: p.default for p in after_pairs}

    def bind(self, **settings: object) -> Callable[[Pairs], Tensor]:
        """The loss with its parameters: of N pairs it gives [N]. What is not given has its default.

        Raises ConfigError for a parameter that it does not have or that is out of its range.
        """
        if unknown := settings.keys() - self.parameters.keys():
            raise ConfigError(f"{self.name} has no {', '.join(unknown)}: it has {', '.join(self.parameters)}")
        chosen = {**self.parameters, **settings}
        beta, smoothing, divergence = (chosen.get(n) for n in ("beta", "label_smoothing", "divergence"))
        if not isinstance(beta, (int, float)) or beta <= 0:
            raise ConfigError(f"{self.name}: beta={beta!r}: give a number above 0")
        if smoothing is not None and not (isinstance(smoothing, (int, float)) and 0 <= smoothing < 0.5):
            raise ConfigError(f"{self.name}: label_smoothing={smoothing!r}: give a number from 0, below 0.5")
        if self.function is exo and not smoothing:
            raise ConfigError(f"{self.name}: label_smoothing=0: give one above it, for its logarithm is taken")
        if divergence is not None and divergence not in F_DIVERGENCES:
            raise ConfigError(f"{self.name}: divergence={divergence!r}: give one of {', '.join(F_DIVERGENCES)}")
        return partial(self.function, **settings)

    def rewards(self, pairs: Pairs, beta: float) -> tuple[Tensor, Tensor]:
        """The implicit rewards of the chosen and of the rejected answers [N], without a gradient."""
        if self.score == "ratio":
            chosen, rejected = pairs.ratios
        else:
            chosen, rejected = pairs.means if self.score == "mean" else (pairs.chosen, pairs.rejected)
        return beta * chosen.detach(), beta * rejected.detach()


PREFERENCE_LOSSES: Mapping[str, PreferenceLoss] = {
    loss.name: loss
    for loss in (
        PreferenceLoss("dpo", dpo),
        PreferenceLoss("cdpo", cdpo),
        PreferenceLoss("robust_dpo", robust_dpo),
        PreferenceLoss("soft_dpo", soft_dpo),
        PreferenceLoss("ipo", ipo),
        PreferenceLoss("hinge", hinge),
        PreferenceLoss("dpo_norm", dpo_norm),
        PreferenceLoss("f_dpo", f_dpo),
        PreferenceLoss("exo", exo),
        PreferenceLoss("nca", nca),
        PreferenceLoss("bco", bco),
        PreferenceLoss("sppo_hard", sppo_hard),
        PreferenceLoss("apo_zero", apo_zero),
        PreferenceLoss("apo_down", apo_down),
        PreferenceLoss("aot", aot),
        # The data against what the student of the last round said, which is the reference (SPIN, arXiv 2401.01335).
        PreferenceLoss("spin", dpo),
        PreferenceLoss("simpo", simpo, "mean"),
        PreferenceLoss("orpo", orpo, "mean"),
        PreferenceLoss("cpo", cpo, "sum"),
    )
}


def kto(
    ratios: Tensor,
    desirable: Tensor,
    z0: Tensor | float,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """λ_D (1 - σ(β(r - z0))) of a good answer, λ_U (1 - σ(β(z0 - r))) of a bad one [N] (KTO, arXiv 2402.01306, eq. 8).

    `ratios` [N]: r = s - s_ref of each answer. `desirable` [N]: whether it is good. `z0`: see `kto_z0`.
    """
    import torch

    u = beta * (ratios - z0)
    return torch.where(desirable.bool(), desirable_weight * (-u).sigmoid(), undesirable_weight * u.sigmoid())


def kto_z0(ratios: Tensor) -> Tensor:
    """How far the student is from the reference on answers to other prompts: max(0, mean of s - s_ref), a constant.

    `ratios` [N] are of prompts, each with an answer that was given to another one (`mismatches`). Across devices the
    mean comes first, then the maximum.
    """
    return ratios.detach().mean().clamp(min=0)


def mismatches(prompts: Sequence[Hashable]) -> list[int | None]:
    """For each prompt of a batch the next place with another prompt, whose answer does not fit this one.

    None where all prompts are the same: such a prompt has no part in z0.
    """
    n = len(prompts)
    return [next((j % n for j in range(i + 1, i + n) if prompts[j % n] != prompts[i]), None) for i in range(n)]


def kto_weights(desirable: int, undesirable: int, ratio: float = 1.0) -> tuple[float, float]:
    """λ_D and λ_U, the smaller of them 1, with λ_D·n_D / (λ_U·n_U) = `ratio`; the paper has it from 1 to 4/3 (§4.2).

    Without answers of both kinds there is nothing to balance, and both are 1.
    """
    if not desirable or not undesirable:
        return 1.0, 1.0
    good = ratio * undesirable / desirable
    return (good, 1.0) if good >= 1 else (1.0, 1 / good)


def _log_sigmoid(u: Tensor) -> Tensor:
    from torch.nn import functional as F

    return F.logsigmoid(u)


def _smoothed(u: Tensor, wrong: float | Tensor) -> Tensor:
    """-(1-ε) log σ(u) - ε log σ(-u)."""
    return -(1 - wrong) * _log_sigmoid(u) - wrong * _log_sigmoid(-u)


def _exp(u: Tensor) -> Tensor:
    """exp(u), finite in float32."""
    return u.clamp(max=80).exp()


def _log1mexp(u: Tensor) -> Tensor:
    """log(1 - exp(u)) of u < 0."""
    import torch

    return torch.where(u > -math.log(2), (-u.expm1()).log(), (-u.exp()).log1p())
