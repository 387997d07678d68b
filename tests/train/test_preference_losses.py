"""Preference losses against figures worked by hand, against central differences and by their properties."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdaug.errors import ConfigError
from kdaug.train.preference_losses import (
    PREFERENCE_LOSSES,
    Pairs,
    kto,
    kto_weights,
    kto_z0,
    mismatches,
)


def pairs(*values: float, grad: bool = False) -> Pairs:
    """One pair: s_c, s_r, s_ref,c, s_ref,r; of 6 and 5 tokens."""
    chosen, rejected, ref_chosen, ref_rejected = (torch.tensor([v], dtype=torch.float64) for v in values)
    return Pairs(
        chosen.requires_grad_(grad),
        rejected.requires_grad_(grad),
        torch.tensor([6]),
        torch.tensor([5]),
        ref_chosen,
        ref_rejected,
        torch.tensor([0.6], dtype=torch.float64),
    )


def gradients(loss: Tensor, of: Pairs) -> list[float]:
    return [g.item() for g in torch.autograd.grad(loss.sum(), (of.chosen, of.rejected))]


BY_HAND = (-12.0, -15.0, -13.0, -14.5)  # h = 1.5, a = 1, b = -.5, means -2 and -3
FIGURES: list[tuple[str, dict[str, Any], float]] = [
    ("dpo", {}, 0.6209570478),
    ("spin", {}, 0.6209570478),
    ("dpo", {"label_smoothing": 0.1}, 0.6359570478),
    ("cdpo", {}, 0.6359570478),
    ("robust_dpo", {}, 0.6022070478),
    ("soft_dpo", {}, 0.6 * 0.6209570478 + 0.4 * 0.7709570478),  # -log σ(-u) = u - log σ(u)
    ("ipo", {}, 22.4044444444),
    ("ipo", {"length_normalise": False}, 12.25),
    ("hinge", {}, 0.85),
    ("dpo_norm", {"beta": 0.1}, 0.6799027335),
    ("f_dpo", {"divergence": "forward_kl"}, 0.6311543836),
    ("f_dpo", {"divergence": "js"}, 0.6606521625),
    ("f_dpo", {"divergence": "alpha"}, 0.6276909471),
    ("f_dpo", {"divergence": "alpha", "alpha": 1.0}, 0.6209570478),
    ("exo", {"label_smoothing": 0.1}, 0.4313884572),
    ("nca", {}, 1.3508248141),
    ("bco", {}, 1.3128563081),
    ("sppo_hard", {"beta": 0.1}, 36.25),
    ("apo_zero", {}, 0.9625234160),
    ("apo_down", {}, 0.9875493421),
    ("aot", {}, 0.6209570478),  # one pair is sorted
    ("simpo", {}, 0.3132616875),
    ("orpo", {}, 2.0288750784),
    ("cpo", {}, 0.5543552445 + 2.0),
    ("cpo", {"alpha": 0.0}, 0.5543552445),
]


@pytest.mark.parametrize(("name", "settings", "value"), FIGURES)
def test_figures_by_hand(name: str, settings: dict[str, Any], value: float) -> None:
    assert PREFERENCE_LOSSES[name].bind(**settings)(pairs(*BY_HAND)).item() == pytest.approx(value, abs=1e-9)


def test_every_loss_has_a_figure() -> None:
    assert {name for name, _, _ in FIGURES} == set(PREFERENCE_LOSSES)


@pytest.mark.parametrize(
    ("name", "settings", "chosen", "rejected"),
    [
        ("dpo", {}, -0.0462570155, 0.0462570155),
        ("ipo", {"length_normalise": False}, -7.0, 7.0),
        ("simpo", {}, -0.0896471405, 0.1075765685),
        # of λ·(-log σ(Λ)) with λ = 1, and of the mean over 6 tokens
        ("orpo", {"beta": 1.0}, -0.0483426507 - 1 / 6, 0.0527884009),
    ],
)
def test_gradients_by_hand(name: str, settings: dict[str, Any], chosen: float, rejected: float) -> None:
    pair = pairs(*BY_HAND, grad=True)
    assert gradients(PREFERENCE_LOSSES[name].bind(**settings)(pair), pair) == pytest.approx(
        [chosen, rejected], abs=1e-9
    )


def many(n: int = 6) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    scores = -10 - 3 * torch.randn(4, n, generator=generator, dtype=torch.float64)
    lengths = torch.randint(4, 9, (2, n), generator=generator)
    return Pairs(
        scores[0].requires_grad_(),
        scores[1].requires_grad_(),
        *lengths,
        scores[2],
        scores[3],
        torch.rand(n, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize(("name", "settings", "_"), FIGURES)
def test_the_gradient_is_that_of_central_differences(name: str, settings: dict[str, Any], _: float) -> None:
    batch, loss = many(), PREFERENCE_LOSSES[name].bind(**settings)
    assert torch.autograd.gradcheck(
        lambda c, r: loss(replace(batch, chosen=c, rejected=r)).sum(),
        (batch.chosen, batch.rejected),
        eps=1e-6,
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", sorted(set(PREFERENCE_LOSSES) - {"ipo", "sppo_hard", "apo_down", "nca", "soft_dpo"}))
def test_it_pulls_the_chosen_up_and_the_rejected_down(name: str) -> None:
    pair = pairs(*BY_HAND, grad=True)
    up, down = gradients(PREFERENCE_LOSSES[name].bind()(pair), pair)
    assert up < 0 < down


@pytest.mark.parametrize("name", ["dpo", "cdpo", "soft_dpo", "f_dpo", "dpo_norm", "aot", "spin"])
def test_of_the_reference_itself_it_is_ln_2_and_its_rewards_are_nothing(name: str) -> None:
    same = pairs(-12, -15, -12, -15)
    loss = PREFERENCE_LOSSES[name]
    assert loss.bind()(same).item() == pytest.approx(math.log(2))
    assert [r.item() for r in loss.rewards(same, 0.1)] == [0.0, 0.0]


def test_equal_texts_teach_spin_nothing() -> None:
    text = torch.tensor([-12.0], dtype=torch.float64, requires_grad=True)
    length, reference = torch.tensor([6]), torch.tensor([-11.0]).double()
    loss = PREFERENCE_LOSSES["spin"].bind(beta=5.0)(Pairs(text, text, length, length, reference, reference))
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.autograd.grad(loss.sum(), text)[0].item() == 0.0


def test_swapping_the_answers_flips_the_margin_and_what_they_share_cancels() -> None:
    pair = pairs(*BY_HAND)
    assert pair.margin.item() == 1.5
    assert pairs(-15, -12, -14.5, -13).margin.item() == -1.5
    assert (
        pairs(-12 - 4, -15 - 4, -13 - 3, -14.5 - 3).margin.item() == 1.5
    )  # a prefix, -4 by the student, -3 by the other


def test_ipo_is_least_at_its_margin() -> None:
    loss = PREFERENCE_LOSSES["ipo"].bind(beta=0.25, length_normalise=False)
    assert loss(pairs(-10, -12, -10, -10)).item() == 0.0  # h = 2 = 1/(2·.25)
    assert min(loss(pairs(-10, -12 - d, -10, -10)).item() for d in (-0.1, 0.1)) > 0


def test_aot_compares_sorted_differences() -> None:
    batch = many()
    assert batch.ref_chosen is not None and batch.ref_rejected is not None
    ours = sorted((batch.chosen - batch.rejected).tolist())
    theirs = sorted((batch.ref_chosen - batch.ref_rejected).tolist())
    by_hand = [math.log1p(math.exp(-0.1 * (x - y))) for x, y in zip(ours, theirs, strict=True)]
    assert PREFERENCE_LOSSES["aot"].bind()(batch).tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize(("name", "settings", "_"), FIGURES)
def test_far_answers_stay_finite(name: str, settings: dict[str, Any], _: float) -> None:
    scores = torch.tensor([-3000.0, -1e-9, 0.0, -3000.0], requires_grad=True)
    others = torch.tensor([-1e-9, -3000.0, 0.0, -3000.0], requires_grad=True)
    ones = torch.ones(4)
    batch = Pairs(scores, others, ones * 5, ones * 5, others.detach() - 50, scores.detach() - 40, ones * 0.9)
    loss = PREFERENCE_LOSSES[name].bind(**settings)(batch)
    found = torch.autograd.grad(loss.sum(), (scores, others))
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(g).all() for g in found)


def test_rewards_are_what_the_loss_compares() -> None:
    pair = pairs(*BY_HAND, grad=True)
    found = {name: [r.item() for r in PREFERENCE_LOSSES[name].rewards(pair, 2.0)] for name in ("dpo", "simpo", "cpo")}
    assert found == {"dpo": [2.0, -1.0], "simpo": [-4.0, -6.0], "cpo": [-24.0, -30.0]}
    assert not PREFERENCE_LOSSES["dpo"].rewards(pair, 2.0)[0].requires_grad


def test_only_losses_without_a_reference_do_without_one() -> None:
    bare = replace(pairs(*BY_HAND), ref_chosen=None, ref_rejected=None)
    for loss in PREFERENCE_LOSSES.values():
        if loss.needs_reference:
            with pytest.raises(ConfigError, match="reference"):
                loss.bind()(bare)
        else:
            assert torch.isfinite(loss.bind()(bare)).all()
    assert {n for n, loss in PREFERENCE_LOSSES.items() if not loss.needs_reference} == {"simpo", "orpo", "cpo"}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dpo", {"gamma": 1.0}, "dpo has no gamma: it has beta, label_smoothing"),
        ("dpo", {"beta": 0.0}, "beta=0.0: give a number above 0"),
        ("robust_dpo", {"label_smoothing": 0.5}, "label_smoothing=0.5"),
        ("exo", {"label_smoothing": 0.0}, "its logarithm"),
        ("f_dpo", {"divergence": "kl"}, "forward_kl, js, alpha"),
    ],
)
def test_wrong_settings_are_told_before_anything_runs(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PREFERENCE_LOSSES[name].bind(**settings)


def test_soft_labels_must_be_given() -> None:
    with pytest.raises(ConfigError, match="preference"):
        PREFERENCE_LOSSES["soft_dpo"].bind()(replace(pairs(*BY_HAND), preference=None))


def test_kto_by_hand() -> None:
    ratios = torch.tensor([1.0, -0.5], dtype=torch.float64, requires_grad=True)
    losses = kto(ratios, torch.tensor([True, False]), 0.4)
    assert losses.tolist() == pytest.approx([0.4850044984, 0.4775151752], abs=1e-9)
    (gradient,) = torch.autograd.grad(losses.sum(), ratios)
    assert gradient.tolist() == pytest.approx([-0.0249775135, 0.0249494433], abs=1e-9)
    weighed = kto(ratios, torch.tensor([True, False]), 0.4, desirable_weight=2.0, undesirable_weight=3.0)
    assert weighed.tolist() == pytest.approx([2 * 0.4850044984, 3 * 0.4775151752], abs=1e-9)
    assert torch.autograd.gradcheck(lambda r: kto(r, torch.tensor([True, False]), 0.4).sum(), ratios, rtol=1e-6)


def test_kto_is_bounded_and_takes_a_batch_of_one_kind() -> None:
    ratios = torch.linspace(-1e4, 1e4, 9)
    for good in (True, False):
        losses = kto(ratios, torch.full((9,), good), 0.0)
        assert ((losses >= 0) & (losses <= 1)).all()
        assert losses.diff().sign().unique().tolist() in ([-1.0, 0.0], [0.0, 1.0])


def test_z0_is_a_constant_and_never_below_nothing() -> None:
    ratios = torch.tensor([1.0, -0.5], requires_grad=True)
    assert kto_z0(ratios).item() == 0.25
    assert not kto_z0(ratios).requires_grad
    assert kto_z0(-ratios).item() == 0.0


def test_a_mismatch_is_the_answer_to_another_prompt() -> None:
    assert mismatches(["a", "b", "c"]) == [1, 2, 0]
    assert mismatches(["a", "a", "b"]) == [2, 2, 0]
    assert mismatches(["a", "a"]) == [None, None]


def test_kto_weights_balance_good_and_bad() -> None:
    for good, bad, ratio in ((100, 50, 1.0), (50, 100, 4 / 3), (70, 70, 4 / 3)):
        weights = kto_weights(good, bad, ratio)
        assert weights[0] * good / (weights[1] * bad) == pytest.approx(ratio)
        assert min(weights) == 1.0
    assert kto_weights(10, 0) == (1.0, 1.0)
