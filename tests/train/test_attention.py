"""Attention by document: the same as each document alone, for every kind that a causal model asks for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from kdaug.chat import Chat
from kdaug.record import Record
from kdaug.train.attention import attend, in_one_kernel
from kdaug.train.batching import collate, encode
from kdaug.train.student import load

LENGTHS = (5, 1, 9)
MODULE = SimpleNamespace(num_key_value_groups=2, is_causal=True)


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(1, 4, 15, 8), torch.randn(1, 2, 15, 8), torch.randn(1, 2, 15, 8)


def test_each_document_attends_to_itself_alone() -> None:
    query, key, value = tensors()
    together, _ = attend(MODULE, query, key, value, None, documents=LENGTHS, scaling=0.5)
    at = 0
    for length in LENGTHS:
        q, k, v = (t[:, :, at : at + length] for t in (query, key, value))
        alone = sdpa(q, k, v, is_causal=True, scale=0.5, enable_gqa=True).transpose(1, 2)
        torch.testing.assert_close(together[:, at : at + length], alone)
        at += length


@pytest.mark.parametrize("width", [None, 4])
def test_a_gpus_kernel_is_given_the_same_task(monkeypatch: pytest.MonkeyPatch, width: int | None) -> None:
    """Torch's kernel as its documentation has it, written out: rows [N, h, d] one behind the other, where each begins
    in `ends`, and how far a token sees back and ahead."""

    def kernel(query: Any, key: Any, value: Any, ends: Any, same: Any, longest: int, _: int, **how: Any) -> Any:
        (back, ahead), found = how["window_size"], []
        assert how["enable_gqa"] and ends is same and ends.dtype == torch.int32 and longest == max(ends.diff())
        for start, end in pairwise(ends.tolist()):
            apart = torch.arange(end - start)[None] - torch.arange(end - start)[:, None]
            seen = (apart <= ahead) & (apart >= (-back if back >= 0 else -longest))
            q, k, v = (t[start:end].transpose(0, 1)[None] for t in (query, key, value))
            found.append(sdpa(q, k, v, attn_mask=seen, scale=how["scale"], enable_gqa=True)[0].transpose(0, 1))
        return torch.cat(found)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    query, key, value = tensors()
    how = {"scaling": 0.5, "sliding_window": width}
    one_by_one, _ = attend(MODULE, query, key, value, None, documents=LENGTHS, **how)
    torch.testing.assert_close(in_one_kernel(query, key, value, LENGTHS, how)[None], one_by_one)


def test_a_sliding_window_is_kept() -> None:
    query, key, value = tensors()
    windowed, _ = attend(MODULE, query, key, value, None, documents=(15,), sliding_window=4)
    seen = torch.ones(15, 15, dtype=torch.bool).tril() & ~torch.ones(15, 15, dtype=torch.bool).tril(-4)
    wanted = sdpa(query, key, value, attn_mask=seen, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(windowed, wanted)


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        attend(MODULE, *tensors(), None, documents=LENGTHS, softcap=30.0)
    with pytest.raises(NotImplementedError):  # `documents` got lost on the way
        attend(MODULE, *tensors(), torch.empty(1, 1, 1, 1))


def test_rows_of_any_number_cost_no_padding_and_change_nothing(
    tiny: Path, answers: list[Record], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    chat = Chat.load(tiny)
    documents = [d for (d,) in encode(answers, "completion", chat, 128).documents]
    student = load(tiny, chat, "cpu", "float32")
    assert student.by_document
    batch = collate([documents[:3], documents[3:4], documents[4:9]], chat.pad)
    flat = batch.in_one_row()
    assert flat.ids.shape == (1, sum(map(len, documents[:9])))
    assert flat.sizes == (tuple(map(len, documents[:9])),)
    states, targets, owner = student.hidden(batch)
    student.model.set_attn_implementation("sdpa")
    masked = student.model.base_model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False)
    wanted = batch.targets != -100
    torch.testing.assert_close(states, masked.last_hidden_state[wanted], atol=1e-5, rtol=1e-4)
    assert torch.equal(targets, batch.targets[wanted])
    assert torch.equal(owner, batch.owner[wanted])


def test_the_trained_model_is_saved_with_no_sign_of_it(tiny: Path, tmp_path: Path) -> None:
    student = load(tiny, Chat.load(tiny), "cpu", "float32")
    (tmp_path / "saved").mkdir()
    student.save(tmp_path / "saved")
    assert "by_document" not in (tmp_path / "saved" / "config.json").read_text()
    generated = student.model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)
    again = load(tmp_path / "saved", student.chat, "cpu").model
    again.set_attn_implementation("sdpa")
    assert torch.equal(generated, again.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False))
