"""Divergences against figures worked by hand, against central differences and by their properties."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from kdaug.errors import ConfigError
from kdaug.train import divergences as d
from kdaug.train.divergences import DIVERGENCES, TaidSchedule, cross_entropy, forward_kl, interpolated, jsd, taid

# Four logits each, worked to ten digits: value and gradient in the student's logits.
TEACHER, STUDENT = torch.tensor([[2.0, 1, 0, -1]]).double(), torch.tensor([[0.5, 1.5, 0, -0.5]]).double()
BY_HAND = {
    "forward_kl": (d.forward_kl, 0.4372173705, (-0.43081696, 0.34237571, 0.04210573, 0.04633551)),
    "cross_entropy": (d.cross_entropy, 1.3847543345, (-0.43081696, 0.34237571, 0.04210573, 0.04633551)),
    "reverse_kl": (d.reverse_kl, 0.4033636758, (-0.32160227, 0.28431146, -0.00118656, 0.03847737)),
    "jsd .1": (partial(jsd, beta=0.1), 0.0383924036, (-0.03629357, 0.02909755, 0.00325809, 0.00393793)),
    "jsd .5": (jsd, 0.1008073367, (-0.08556456, 0.07119308, 0.00473654, 0.00963494)),
    "jsd .9": (partial(jsd, beta=0.9), 0.0360790074, (-0.02897714, 0.02525252, 0.00030706, 0.00341756)),
    "skew_kl": (d.skew_kl, 0.3379263550, (-0.30724192, 0.24862938, 0.02496421, 0.03364833)),
    "skew_cross_entropy": (d.skew_cross_entropy, 1.2854633190, (-0.30724192, 0.24862938, 0.02496421, 0.03364833)),
    "skew_reverse_kl": (d.skew_reverse_kl, 0.3232402994, (-0.26187964, 0.22512666, 0.00628540, 0.03046758)),
    "total_variation": (d.total_variation, 0.4308169556, (-0.16768684, 0.12343843, 0.02754284, 0.01670558)),
    "taid .4": (partial(taid, t=0.4), 1.2188710579, (-0.15460752, 0.13014285, 0.00685175, 0.01761292)),
    # w = ½, so the mean of the two KL and of their gradients
    "adaptive_kl": (d.adaptive_kl, 0.4202905231, (-0.37620962, 0.31334359, 0.02045959, 0.04240644)),
}
ALL = {**{name: fn for name, (fn, _, _) in BY_HAND.items()}, "skew_kl 0": partial(d.skew_kl, alpha=0.0)}
# Those that are 0 where the two agree, and never below it.
PROPER = {name: fn for name, fn in ALL.items() if "entropy" not in name and "taid" not in name}


def of_logits(function: Callable[..., Tensor], teacher: Tensor, student: Tensor) -> Tensor:
    return function(teacher.log_softmax(-1), student.log_softmax(-1))


def logits(rows: int, vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, rows, vocabulary, generator=generator, dtype=torch.float64) * 2
    return teacher, student.requires_grad_()


@pytest.mark.parametrize("name", BY_HAND)
def test_value_and_gradient_by_hand(name: str) -> None:
    function, value, gradient = BY_HAND[name]
    student = STUDENT.clone().requires_grad_()
    loss = of_logits(function, TEACHER, student)
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(value, abs=1e-9)
    (found,) = torch.autograd.grad(loss.sum(), student)
    assert found[0].tolist() == pytest.approx(gradient, abs=1e-8)


def test_a_temperature_by_hand() -> None:
    student = STUDENT.clone().requires_grad_()
    loss = of_logits(forward_kl, TEACHER / 2, student / 2)
    assert loss.item() == pytest.approx(0.1043383433, abs=1e-9)
    (gradient,) = torch.autograd.grad(4 * loss.sum(), student)
    assert gradient[0].tolist() == pytest.approx([-0.41432913, 0.26539326, 0.05130315, 0.09763272], abs=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_is_that_of_central_differences_and_sums_to_nothing(name: str) -> None:
    teacher, student = logits(3, 8)
    fixed = student.detach().log_softmax(-1)  # what is a constant to the gradient stays one in the differences

    def loss(z: Tensor) -> Tensor:
        if name == "taid .4":
            return cross_entropy(interpolated(teacher.log_softmax(-1), fixed, 0.4), z.log_softmax(-1)).sum()
        if name == "adaptive_kl":
            both = [of_logits(f, teacher, z) for f in (d.forward_kl, d.reverse_kl)]
            return (shares * both[0] + (1 - shares) * both[1]).sum()
        return of_logits(ALL[name], teacher, z).sum()

    mixed, one, other = (of_logits(f, teacher, student).detach() for f in (d.adaptive_kl, d.forward_kl, d.reverse_kl))
    shares = (mixed - other) / (one - other)
    assert torch.autograd.gradcheck(loss, student, eps=1e-6, rtol=1e-6, atol=1e-8)
    (gradient,) = torch.autograd.grad(of_logits(ALL[name], teacher, student).sum(), student)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss(student), student)[0])
    assert gradient.sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize("name", PROPER)
def test_it_is_nothing_for_the_teachers_own_logits_with_any_constant_added(name: str) -> None:
    teacher, student = logits(5, 8)
    assert (of_logits(PROPER[name], teacher, student) > 0).all()
    assert of_logits(PROPER[name], teacher, teacher + 7.5).abs().max() < 1e-12


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits_stay_finite(name: str, dtype: torch.dtype) -> None:
    teacher = torch.tensor([[1e4, -1e4, 0, 5], [1e4, -1e4, 0, 5], [-1e4, -1e4, -1e4, 1e4]], dtype=dtype)
    student = torch.tensor([[-1e4, 1e4, 0, 5], [1e4, -1e4, 0, 5], [1e4, -1e4, 1e4, -1e4]], dtype=dtype).requires_grad_()
    loss = of_logits(ALL[name], teacher, student)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ALL)
def test_what_both_exclude_weighs_nothing(name: str) -> None:
    teacher, student = logits(3, 6)
    shut = torch.tensor([0.0] * 6 + [-math.inf] * 2).double()
    wide = [torch.cat([z, torch.zeros(3, 2).double()], -1) + shut for z in (teacher, student)]
    torch.testing.assert_close(of_logits(ALL[name], *wide), of_logits(ALL[name], teacher, student))
    (found,) = torch.autograd.grad(of_logits(ALL[name], *wide).sum(), student)
    torch.testing.assert_close(found, torch.autograd.grad(of_logits(ALL[name], teacher, student).sum(), student)[0])


def test_what_the_teacher_alone_excludes() -> None:
    shut, uniform = torch.tensor([[0.0, 0.0, -math.inf, -math.inf]]), torch.zeros(1, 4).requires_grad_()
    for name, function in PROPER.items():
        loss = of_logits(function, shut, uniform)
        if name in ("reverse_kl", "adaptive_kl"):
            assert loss.item() == math.inf
        else:
            (gradient,) = torch.autograd.grad(loss.sum(), uniform)
            assert torch.isfinite(loss).all() and torch.isfinite(gradient).all(), name
    assert of_logits(forward_kl, shut, uniform).item() == pytest.approx(math.log(2))


def test_jsd_is_bounded_symmetric_and_a_kl_at_its_ends() -> None:
    teacher, student = (z.log_softmax(-1) for z in logits(200, 8))
    assert of_logits(jsd, teacher * 50, student * 50).max().item() == pytest.approx(math.log(2), abs=1e-12)
    torch.testing.assert_close(jsd(teacher, student, 0.3), jsd(student, teacher, 0.7))
    torch.testing.assert_close(jsd(teacher, student, 0.0), forward_kl(teacher, student))
    torch.testing.assert_close(jsd(teacher, student, 1.0), forward_kl(student, teacher))
    assert of_logits(partial(jsd, beta=1e-4), TEACHER, STUDENT).item() / 1e-4 == pytest.approx(0.43716, abs=1e-5)
    near = jsd(teacher, student, 1 - 1e-6) / 1e-6
    torch.testing.assert_close(near, d.reverse_kl(teacher, student), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("function", [d.skew_kl, d.skew_reverse_kl])
def test_skewed_divergences_are_bounded_and_end_in_nothing(function: Callable[..., Tensor]) -> None:
    teacher, student = (z * 100 for z in logits(200, 8))
    assert of_logits(function, teacher, student).max() <= -math.log(0.1) + 1e-12
    loss = of_logits(partial(function, alpha=1.0), teacher, student)
    assert loss.abs().max() < 1e-12
    one_sided = d.forward_kl if function is d.skew_kl else d.reverse_kl
    torch.testing.assert_close(
        of_logits(partial(function, alpha=0.0), teacher, student), of_logits(one_sided, teacher, student)
    )


def test_total_variation_of_equals_has_no_gradient() -> None:
    student = TEACHER.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of_logits(d.total_variation, TEACHER, student).sum(), student)
    assert not gradient.any()


def test_the_head_of_adaptive_kl_is_found_wherever_it_stands() -> None:
    teacher, student = logits(6, 8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        of_logits(d.adaptive_kl, teacher[:, order], student[:, order]), of_logits(d.adaptive_kl, teacher, student)
    )
    assert of_logits(d.adaptive_kl, TEACHER, TEACHER).item() == 0.0  # not 0/0
    # Head {0, 1}: |p - q| is .43081696 + .34237571 there, and .04210573 + .04633551 in the tail.
    weight = 0.77319267 / (0.77319267 + 0.08844124)
    by_hand = weight * 0.4372173705 + (1 - weight) * 0.4033636758
    assert of_logits(partial(d.adaptive_kl, mu=0.7), TEACHER, STUDENT).item() == pytest.approx(by_hand, abs=1e-8)


def test_taid_goes_from_the_student_to_the_teacher() -> None:
    p_t = interpolated(TEACHER.log_softmax(-1), STUDENT.log_softmax(-1), 0.4).exp()
    assert p_t[0].tolist() == pytest.approx([0.36770482, 0.44911568, 0.12239830, 0.06078120], abs=1e-8)
    assert forward_kl(p_t.log(), STUDENT.log_softmax(-1)).item() == pytest.approx(0.0641751225, abs=1e-9)
    student = STUDENT.clone().requires_grad_()
    (still,) = torch.autograd.grad(of_logits(partial(taid, t=0.0), TEACHER, student).sum(), student)
    assert still.abs().max() < 1e-12
    (whole,) = torch.autograd.grad(of_logits(partial(taid, t=1.0), TEACHER, student).sum(), student)
    assert whole[0].tolist() == pytest.approx(BY_HAND["forward_kl"][2], abs=1e-8)


def test_the_schedule_of_taid_by_hand() -> None:
    schedule = TaidSchedule.begin(start=0.4).after(2.0, 0, 1000)
    assert (schedule.t, schedule.previous) == (0.4, 2.0)
    schedule = schedule.after(1.8, 1, 1000)
    assert schedule.momentum == pytest.approx(0.001)
    assert schedule.t == pytest.approx(0.4006)  # the line is ahead of .4 + 1.50075e-4
    schedule = schedule.after(1.9, 2, 1000)
    assert schedule.momentum == pytest.approx(4.344444e-4)
    assert schedule.t == pytest.approx(0.4012)
    assert TaidSchedule.begin(start=0.4, alpha=1.0).after(2.0, 0, 1000).after(1.8, 1, 1000).t == pytest.approx(
        0.4 + 0.6 / (1 + math.exp(-0.001))
    )


def test_the_schedule_of_taid_never_falls_and_ends_at_its_end() -> None:
    for adaptive in (True, False):
        schedule, seen = TaidSchedule.begin(start=0.2, alpha=0.05, adaptive=adaptive), []
        for step in range(1, 51):
            schedule = schedule.after(2.0 + math.sin(step), step, 50)
            seen.append(schedule.t)
        assert seen == sorted(seen)
        assert seen[-1] == 1.0
        assert (seen[9] == pytest.approx(0.36)) is not adaptive
    with pytest.raises(ConfigError, match="start <= end"):
        TaidSchedule.begin(start=0.8, end=0.5)


def test_two_vocabularies_and_wrong_parameters_are_told() -> None:
    for name, function in DIVERGENCES.items():
        more = {"t": 0.5} if name == "taid" else {}
        with pytest.raises(ConfigError, match="uld"):
            function(torch.zeros(2, 5), torch.zeros(2, 4), **more)
    for name, parameter in {"jsd": "beta", "skew_kl": "alpha", "adaptive_kl": "mu", "taid": "t"}.items():
        with pytest.raises(ConfigError, match=f"{parameter}=1.5"):
            DIVERGENCES[name](TEACHER, STUDENT, **{parameter: 1.5})


def test_bfloat16_logits_are_close_once_they_are_widened() -> None:
    teacher, student = (z / 4 for z in logits(50, 8))
    for function in ALL.values():
        rough = of_logits(function, teacher.bfloat16().float(), student.bfloat16().float())
        assert (rough - of_logits(function, teacher, student)).abs().max() < 1e-2
