"""Losses between two vocabularies: figures by hand, alignment of real tokenizers, chunks equal to the whole."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kdaug.errors import ConfigError
from kdaug.train.cross_vocabulary import (
    Shared,
    Side,
    align,
    byte_ends,
    linear_aligned_divergence,
    merged,
    uld,
)
from kdaug.train.divergences import jsd
from kdaug.train.losses import linear_divergence

TEACHER, STUDENT = torch.tensor([[2.0, 1, 0, -1]]).double(), torch.tensor([[0.5, 1.5, 0, -0.5]]).double()


def rows(n: int, *widths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, w, generator=generator, dtype=torch.float64) * 2 for w in widths]


def test_uld_by_hand() -> None:
    student = STUDENT.clone().requires_grad_()
    loss = uld(TEACHER.log_softmax(-1), student.log_softmax(-1))
    assert loss.item() == pytest.approx(0.1768824875, abs=1e-9)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient[0].tolist() == pytest.approx([-0.08849682, -0.24055931, 0.20482406, 0.12423207], abs=1e-8)
    three = torch.tensor([[1.0, 0, -1]]).double().log_softmax(-1)
    assert uld(TEACHER.log_softmax(-1), three).item() == pytest.approx(0.0641172066, abs=1e-9)


def test_uld_knows_no_order_of_the_vocabulary() -> None:
    teacher, student = (z.log_softmax(-1) for z in rows(20, 8, 8))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(uld(teacher[:, order], student), uld(teacher, student))
    torch.testing.assert_close(uld(teacher, student[:, order]), uld(teacher, student))
    assert uld(teacher, teacher[:, order]).abs().max() < 1e-12


def test_uld_is_bounded_and_its_gradient_is_that_of_central_differences() -> None:
    teacher, student = rows(3, 8, 5)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: uld(teacher.log_softmax(-1), z.log_softmax(-1)).sum(), student, eps=1e-6, rtol=1e-6, atol=1e-8
    )
    (gradient,) = torch.autograd.grad(uld(teacher.log_softmax(-1), student.log_softmax(-1)).sum(), student)
    assert gradient.sum(-1).abs().max() < 1e-12
    wide, sharp = torch.zeros(1, 5000).log_softmax(-1), torch.tensor([[1e4, -1e4, 0.0]]).log_softmax(-1)
    assert 1.9 < uld(wide, sharp).item() <= 2


def test_groups_by_hand() -> None:
    assert align([3, 7], [1, 3, 5, 7]) == [(range(1), range(2)), (range(1, 2), range(2, 4))]
    assert align([1, 2, 3], [1, 2, 3]) == [(range(i, i + 1), range(i, i + 1)) for i in range(3)]
    assert align([], [1]) == align([4], []) == []
    assert align([2, 5], [2, 4]) == [(range(1), range(1)), (range(1, 2), range(1, 2))]  # the rest of both
    assert align([2, 5], [2]) == [(range(1), range(1))]  # the rest of one side: no partner
    assert align([2, 5, 5], [5, 5]) == [(range(2), range(1)), (range(2, 3), range(1, 2))]  # an end of text each


def test_parts_of_a_character_close_no_group() -> None:
    # "é🙂": two bytes and four; the student splits both, the teacher in another way.
    student = byte_ends("é🙂", [(0, 1), (0, 1), (1, 2), (1, 2), (1, 2)])
    teacher = byte_ends("é🙂", [(0, 1), (1, 2), (1, 2)])
    assert student == [0, 2, 2, 2, 6]
    assert teacher == [2, 2, 6]
    assert align(student, teacher) == [(range(2), range(1)), (range(2, 5), range(1, 3))]
    assert byte_ends("a🙂", [(0, 2), (1, 2)]) == [1, 5]  # a letter and the first byte of the next one


TEXTS = [
    "The café costs 5€.",
    "naïve 🙂👍🏽 ok",
    "日本語のテスト、和中文",
    "  two  spaces\n\ttab",
    "Ünïcödé e\u0301",
    "a",
]


def tokenizers() -> list[Any]:
    """Bytes, byte-level BPE, and BPE with SentencePiece's spaces that falls back on bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    corpus = ["the cat costs two spaces and a test of the naive cafe", "日本語のテスト"] * 20
    found = []
    for size in (256, 330):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet))
        found.append(tokenizer)
    pieces = {**{f"<0x{b:02X}>": b for b in range(256)}, "▁": 256, "t": 257, "e": 258, "te": 259, "日": 260, "▁t": 261}
    fallback = Tokenizer(models.BPE(pieces, [("t", "e"), ("▁", "t")], byte_fallback=True, fuse_unk=True))
    fallback.pre_tokenizer = pre_tokenizers.Metaspace()
    fallback.decoder = decoders.ByteFallback()
    return [*found, fallback]


@pytest.mark.parametrize("text", TEXTS)
def test_groups_of_real_tokenizers_cover_the_same_bytes(text: str) -> None:
    encoded = [t.encode(text) for t in tokenizers()]
    ends = [byte_ends(text, e.offsets) for e in encoded]
    size = len(text.encode())
    for e in ends:
        assert e == sorted(e)
        assert e[-1] == size
    for ours in ends:
        for theirs in ends:
            groups = align(ours, theirs)
            assert [i for s, _ in groups for i in s] == list(range(len(ours)))
            assert [i for _, t in groups for i in t] == list(range(len(theirs)))
            assert all(ours[s[-1]] == theirs[t[-1]] for s, t in groups)
            closes = [ours[s[-1]] for s, _ in groups]
            assert closes == sorted(set(closes))
            raw = text.encode()
            parts = [raw[a:b].decode() for a, b in zip([0, *closes], closes, strict=False)]  # no character is cut
            assert "".join(parts) == text


def test_merged_rows_by_hand() -> None:
    log_p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]]).double().log()
    ids, groups = torch.tensor([0, 1, 2]), [range(2), range(2, 3)]
    first = merged(log_p, ids, groups).exp()
    torch.testing.assert_close(first, torch.tensor([[0.3, 0.18, 0.12], [0.25, 0.25, 0.5]]).double())
    last = merged(log_p, ids, groups, "last").exp()
    torch.testing.assert_close(last, torch.tensor([[0.05, 0.3, 0.15], [0.25, 0.25, 0.5]]).double())
    # Either way the probability of the whole group stands at its token: .5 · .6.
    assert first[0, 0].item() == pytest.approx(last[0, 1].item()) == pytest.approx(0.3)


def sides(tokens: int = 9) -> tuple[Side, Side]:
    hidden, head, guide_hidden, guide = rows(tokens, 5)[0], rows(9, 5)[0], rows(tokens + 2, 6)[0], rows(12, 6)[0]
    generator = torch.Generator().manual_seed(2)
    ids = [torch.randint(n, (t,), generator=generator) for n, t in ((7, tokens), (11, tokens + 2))]
    student = Side(hidden.requires_grad_(), head.requires_grad_(), ids[0], 7)
    return student, Side(guide_hidden.requires_grad_(), guide.requires_grad_(), ids[1], 11)


GROUPS = align([1, 4, 6, 8, 9, 12, 13, 15, 17], [2, 4, 5, 6, 7, 8, 12, 14, 15, 16, 17])


@pytest.mark.parametrize("merge", ["first", "last"])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_chunks_give_the_whole_aligned_divergence(merge: Any, chunk: int) -> None:
    student, teacher = sides()
    assert [(len(s), len(t)) for s, t in GROUPS] == [(2, 2), (1, 2), (1, 2), (2, 1), (2, 2), (1, 2)]
    shared = Shared.of(
        {f"s{i}": i for i in range(4)} | {"a": 4, "b": 5, "c": 6}, {f"t{i}": i for i in range(9)} | {"b": 9, "a": 10}
    )
    for divergence in (uld, shared.hybrid, partial(shared.hybrid, beta=0.1, weights=(2.0, 0.5))):
        log_q, log_p = ((s.hidden @ s.head[: s.vocabulary].T / 2).log_softmax(-1) for s in (student, teacher))
        whole = divergence(
            merged(log_p.detach(), teacher.ids, [t for _, t in GROUPS], merge),
            merged(log_q, student.ids, [s for s, _ in GROUPS], merge),
        )
        ours = linear_aligned_divergence(
            student, teacher, GROUPS, divergence, merge=merge, temperature=2.0, chunk=chunk
        )
        torch.testing.assert_close(ours, whole)
        parts = (student.hidden, student.head)
        torch.testing.assert_close(torch.autograd.grad(ours.sum(), parts), torch.autograd.grad(whole.sum(), parts))
        linear_aligned_divergence(student, teacher, GROUPS, divergence, merge=merge, chunk=chunk).sum().backward()
        assert teacher.hidden.grad is None and teacher.head.grad is None


def test_an_empty_answer_gives_nothing_that_can_still_be_added() -> None:
    student, teacher = sides()
    loss = linear_aligned_divergence(student, teacher, [])
    assert loss.shape == (0,)
    loss.sum().backward()
    assert student.hidden.grad is not None and not student.hidden.grad.any()


def test_uld_of_paired_rows_goes_by_chunks_as_other_divergences_do() -> None:
    student, teacher = sides(6)
    hidden = teacher.hidden[:6]
    ours = linear_divergence(
        student.hidden, student.head, hidden, teacher.head, uld, vocabulary=7, teacher_vocabulary=11, chunk=2
    )
    whole = uld((hidden @ teacher.head[:11].T).log_softmax(-1), (student.hidden @ student.head[:7].T).log_softmax(-1))
    torch.testing.assert_close(ours, whole)


def test_with_one_vocabulary_the_hybrid_is_jsd() -> None:
    teacher, student = (z.log_softmax(-1) for z in rows(10, 8, 8))
    ids = {f"t{i}": i for i in range(8)}
    torch.testing.assert_close(Shared.of(ids, ids).hybrid(teacher, student, 0.3), jsd(teacher, student, 0.3))


def test_with_nothing_in_common_the_hybrid_is_uld() -> None:
    teacher, student = (z.log_softmax(-1) for z in rows(10, 8, 5))
    shared = Shared.of({f"s{i}": i for i in range(5)}, {f"t{i}": i for i in range(8)})
    assert shared.share == 0.0
    torch.testing.assert_close(shared.hybrid(teacher, student), uld(teacher, student))


def test_shared_tokens_are_found_whatever_marks_their_space() -> None:
    shared = Shared.of({"▁the": 0, "cat": 1, "x": 2}, {"cat": 5, "Ġthe": 3, "y": 0})
    assert sorted(zip(shared.student.tolist(), shared.teacher.tolist(), strict=True)) == [(0, 3), (1, 5)]
    assert (shared.other_student.tolist(), shared.other_teacher.tolist()) == ([2], [0])
    assert shared.share == pytest.approx(2 / 3)


def test_rows_shorter_than_the_vocabulary_are_told() -> None:
    ids = {f"t{i}": i for i in range(8)}
    with pytest.raises(ConfigError, match="teacher's rows have 4 tokens"):
        Shared.of(ids, ids).hybrid(*(torch.zeros(2, n) - math.log(n) for n in (4, 8)))
