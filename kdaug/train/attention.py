"""Attention of documents that share a row: each within itself, so the row's length costs nothing.

A mask over the whole row computes what it then throws away: of five documents in a row, four fifths. On a GPU, in half
precision, one kernel of torch takes them all (FlashAttention, arXiv 2307.08691); elsewhere they are taken one by one.
It is one of transformers' attention functions, asked for by name; without `documents` (generation) it is the usual one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NAME = "by_document"
# What some models hand to their attention and this one does not know: such a model is left as it was.
UNKNOWN = ("softcap", "s_aux", "position_bias", "indices")


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, Tensor | None]:
    """Causal attention of `query` [1, h, N, d] to `key` and `value` [1, g, N, d] within each of the `documents`, their
    lengths, which sum to N; gives [1, N, h, d]. Raises NotImplementedError for attention of another kind."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    documents: Sequence[int] | None = how.pop("documents", None)
    if documents is None:
        if attention_mask is not None and attention_mask.shape[-2:] == (1, 1) and query.shape[2] > 1:
            raise NotImplementedError("a model that does not hand on what its attention is told")
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)  # type: ignore[no-any-return]
    if any(how.get(name) is not None for name in UNKNOWN):
        raise NotImplementedError("attention with more than a causal mask")
    shared = {"dropout_p": how.get("dropout", 0.0), "scale": how.get("scaling"), "enable_gqa": True}
    half = half_of(query)
    if half is not None and not shared["dropout_p"]:
        return in_one_kernel(query.to(half), key.to(half), value.to(half), documents, how)[None], None
    outputs = []
    # Split, not sliced: the gradient of a slice is as large as the whole.
    for q, k, v in zip(*(t.split(list(documents), dim=2) for t in (query, key, value)), strict=True):
        window = _window(q, how.get("sliding_window"))
        out = scaled_dot_product_attention(q, k, v, attn_mask=window, is_causal=window is None, **shared)
        outputs.append(out.transpose(1, 2))
    return torch.cat(outputs, dim=1), None


def half_of(query: Tensor) -> Any:
    """The half precision that a GPU computes this attention in; None on a CPU, or in float32."""
    import torch

    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    return dtype if kind == "cuda" and dtype in (torch.bfloat16, torch.float16) else None


def in_one_kernel(
    query: Tensor, key: Tensor, value: Tensor, documents: Sequence[int], how: Mapping[str, Any]
) -> Tensor:
    """As `attend`, by torch's kernel for rows of any length; gives [N, h, d]."""
    import torch
    from torch.nn.attention import varlen

    ends = torch.tensor([0, *accumulate(documents)], dtype=torch.int32, device=query.device)
    width = how.get("sliding_window")
    window = (-1 if width is None else width - 1, 0)  # of the tokens before and behind
    rows = (t[0].transpose(0, 1) for t in (query, key, value))
    longest, scale = max(documents), how.get("scaling")
    return varlen.varlen_attn(*rows, ends, ends, longest, longest, scale=scale, window_size=window, enable_gqa=True)


def _window(query: Tensor, width: int | None) -> Tensor | None:
    """The mask of a token and the `width - 1` before it, where a document is longer than that."""
    import torch

    length = query.shape[2]
    if width is None or width >= length:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - width)


def use(model: Any) -> None:
    """Makes it the model's attention. Raises NotImplementedError where that cannot be chosen."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    if model.config.get_text_config()._attn_implementation != NAME:
        raise NotImplementedError(f"{type(model).__name__} has its own attention")
