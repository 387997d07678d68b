"""Divergences from hidden states, a chunk at a time: equal to those of whole logits, and never holding them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kdaug.errors import ConfigError
from kdaug.train.divergences import DIVERGENCES, top_k_kl
from kdaug.train.losses import linear_divergence, linear_top_k_divergence, seq_mean, seq_sum, token_mean

VOCABULARY = 7  # the student's head has 9 rows, the teacher's 8


def heads(tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = [(tokens, 5), (9, 5), (tokens, 6), (8, 6)]
    return [torch.randn(size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]


def dense(divergence: Callable[..., Tensor], parts: list[Tensor], temperature: float) -> Tensor:
    student, head, teacher, guide = parts
    log_p = (teacher @ guide[:VOCABULARY].T / temperature).log_softmax(-1).detach()
    return divergence(log_p, (student @ head[:VOCABULARY].T / temperature).log_softmax(-1))


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_chunks_give_the_whole_divergence_and_its_gradients(name: str, chunk: int) -> None:
    divergence = partial(DIVERGENCES[name], **({"t": 0.4} if name == "taid" else {}))
    parts = heads(11)
    weights = torch.arange(11.0).double()
    whole = dense(divergence, parts, 2.0)
    ours = linear_divergence(*parts, divergence, vocabulary=VOCABULARY, temperature=2.0, chunk=chunk)
    torch.testing.assert_close(ours, whole)
    expected = torch.autograd.grad((weights * whole).sum(), parts[:2])
    torch.testing.assert_close(torch.autograd.grad((weights * ours).sum(), parts[:2]), expected)
    assert not expected[1][VOCABULARY:].any()  # padded rows are no tokens


def test_the_teacher_has_no_gradient() -> None:
    parts = heads(11)
    linear_divergence(*parts, DIVERGENCES["jsd"], vocabulary=VOCABULARY, chunk=4).sum().backward()
    assert [p.grad is not None for p in parts] == [True, True, False, False]


@pytest.mark.parametrize("chunk", [1, 4, 11])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(
    "how", [{}, {"tail": "uniform"}, {"tail": "zero", "renormalise": "both"}], ids=["bucket", "uniform", "zero"]
)
def test_chunks_give_the_whole_top_k_divergence(how: dict[str, Any], residual: bool, chunk: int) -> None:
    student, head, teacher, guide = heads(11)
    log_p = (teacher @ guide[:VOCABULARY].T).log_softmax(-1).detach()
    top, ids = log_p.topk(3)
    rest = 1 - top.exp().sum(-1) if residual else None
    whole = top_k_kl(ids, top, (student @ head[:VOCABULARY].T).log_softmax(-1), residual=rest, **how)
    ours = linear_top_k_divergence(student, head, ids, top, vocabulary=VOCABULARY, residual=rest, chunk=chunk, **how)
    torch.testing.assert_close(ours, whole)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), (student, head)), torch.autograd.grad(whole.sum(), (student, head))
    )


def test_logits_are_never_held_whole() -> None:
    student, teacher = torch.randn(2, 4096, 8).unbind()
    head, guide = torch.randn(2, 512, 8).unbind()
    ids, top = torch.randint(512, (4096, 4)), torch.full((4096, 4), 0.2).log()
    saved: list[int] = []

    def run(loss: Callable[[], Tensor]) -> int:
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            loss()
        return sum(saved)

    student.requires_grad_(), head.requires_grad_()
    for divergence in (DIVERGENCES["forward_kl"], DIVERGENCES["reverse_kl"]):
        call = partial(linear_divergence, student, head, teacher, guide, divergence, vocabulary=512)
        assert run(partial(call, chunk=128)) < 4096 * 512 / 4
    call = partial(linear_top_k_divergence, student, head, ids, top, vocabulary=512)
    assert run(partial(call, chunk=128)) < 4096 * 512 / 4


def test_bfloat16_is_summed_in_float32() -> None:
    parts = heads(11, torch.float32)
    exact = linear_divergence(*parts, DIVERGENCES["forward_kl"], vocabulary=VOCABULARY, temperature=4.0)
    rough = linear_divergence(
        *(p.bfloat16() for p in parts), DIVERGENCES["forward_kl"], vocabulary=VOCABULARY, temperature=4.0
    )
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().max() < 2e-2


def test_no_token_gives_no_number_and_a_gradient_of_nothing() -> None:
    parts = heads(0)
    loss = linear_divergence(*parts, DIVERGENCES["forward_kl"], vocabulary=VOCABULARY)
    assert loss.shape == (0,)
    loss.sum().backward()
    assert not parts[1].grad.any()


def test_a_head_too_small_for_the_vocabulary_is_told() -> None:
    with pytest.raises(ConfigError, match=r"head of 8 rows.*vocabulary of 9.*uld"):
        linear_divergence(*heads(3), DIVERGENCES["jsd"], vocabulary=9)


VALUES = torch.tensor([[0.3, 0.6, 0.9, 0.0], [1.2, 0.4, 0.0, 0.0]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


@pytest.mark.parametrize(("reduction", "value"), [(token_mean, 0.68), (seq_mean, 0.70), (seq_sum, 1.70)])
def test_reductions_by_hand_whatever_is_masked(reduction: Callable[[Tensor, Tensor], Tensor], value: float) -> None:
    garbage = torch.where(MASK.bool(), VALUES, torch.tensor([[0.0, 0, 0, float("nan")], [0, 0, float("inf"), -1e30]]))
    gradients = []
    for values in (VALUES.clone(), garbage):
        loss = reduction(values.requires_grad_(), MASK)
        assert loss.item() == pytest.approx(value)
        gradients += torch.autograd.grad(loss, values)
    assert torch.equal(*gradients)
    assert not gradients[0][~MASK.bool()].any()


@pytest.mark.parametrize("reduction", [token_mean, seq_mean, seq_sum])
def test_a_row_without_a_token_gives_nothing(reduction: Callable[[Tensor, Tensor], Tensor]) -> None:
    values = torch.full((2, 3), float("nan"), requires_grad=True)
    loss = reduction(values, torch.zeros(2, 3))
    assert loss.item() == 0.0
    assert not torch.autograd.grad(loss, values)[0].any()


def test_parts_of_a_step_add_up_to_its_token_mean() -> None:
    parts = [
        token_mean(VALUES[i : i + 1], MASK[i : i + 1], total=total) for i, total in enumerate((5, torch.tensor(5)))
    ]
    torch.testing.assert_close(sum(parts), token_mean(VALUES, MASK))
