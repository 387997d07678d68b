"""Decoding a batch with a transformers model: every row by its own sampling, and rows that ended leave the batch.

transformers' own `generate` computes all rows until the longest one ends, with one sampling for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any

from kdaug.teacher import FinishReason, Sampling, TokenLogprobs

if TYPE_CHECKING:
    from torch import Tensor

NUCLEUS = 1024  # tokens that are sorted for top_p; the whole vocabulary only where these hold too little
WORTH_SHARING = 64  # tokens
CHUNK = 256  # tokens whose logits are widened to float32 at a time


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt as token ids, how to sample, the seed of its random numbers, and how many alternatives a token to
    keep."""

    ids: Sequence[int]
    sampling: Sampling
    seed: int
    top_k: int


@dataclass
class Row:
    """One reply in the making: its tokens (the end-of-turn included) and why it ended."""

    asked: Asked
    ids: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    measured: list[TokenLogprobs] = field(default_factory=list)

    @cached_property
    def rng(self) -> Random:
        return Random(self.asked.seed)

    @cached_property
    def window(self) -> int:
        """Tokens at the end in which a stop string that was just completed must lie: each is at least one byte."""
        return (
            max((len(s.encode()) for s in self.asked.sampling.stop), default=0) + 8
        )  # a few that are halves of a letter

    def take(self, token: int, ends: Sequence[int], text_of: Callable[[list[int]], str]) -> None:
        self.ids.append(token)
        stop = self.asked.sampling.stop
        tail = text_of(self.ids[-self.window :]) if stop else ""
        if token in ends or any(s in tail for s in stop):
            self.finish = "stop"
        elif len(self.ids) >= self.asked.sampling.max_tokens:
            self.finish = "length"


def decode(
    model: Any,  # of transformers, whose types are not followed
    asked: Sequence[Asked],
    ends: Sequence[int],
    text_of: Callable[[list[int]], str],
    given_up: Callable[[], bool],
) -> list[Row]:
    """A finished row for each prompt, in order; a row without `finish` where it was given up."""
    import torch

    rows = [Row(a) for a in asked]
    live, shared = rows, shared_prefix([a.ids for a in asked])
    with torch.inference_mode():
        cache = _compute_once(model, asked[0].ids[:shared], len(asked)) if shared else None
        ids, mask, positions = pad_left([a.ids[shared:] for a in asked], model.device)
        positions, mask = positions + shared, torch.cat([mask.new_ones(len(asked), shared), mask], dim=1)
        width = model.get_output_embeddings().weight.shape[0]
        sampler = Sampler.of([a.sampling for a in asked], width, model.device)
        while live and not given_up():
            out = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits, cache = out.logits[:, -1].float(), out.past_key_values
            chosen = sampler.choose(logits, [row.rng.random() for row in live])
            _measure_rows(live, logits, chosen)
            for row, token in zip(live, chosen.tolist(), strict=True):
                row.take(token, ends, text_of)
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            going = [i for i, row in enumerate(live) if row.finish is None]
            if len(going) < len(live):
                keep = torch.tensor(going, device=model.device, dtype=torch.long)
                live = [live[i] for i in going]
                ids, mask, positions = ids[keep], mask[keep], positions[keep]
                sampler = sampler.only(keep)
                cache.batch_select_indices(keep)
    return rows


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts of a batch begin with alike: few-shot prompts differ in their last task only. At
    least one token is left to each, and 0 stands for too few to be worth a pass of their own."""
    if len(prompts) < 2:
        return 0
    first, last = (
        min(map(list, prompts)),
        max(map(list, prompts)),
    )  # in dictionary order, what these two share all share
    most = min(map(len, prompts)) - 1
    alike = next((i for i in range(most) if first[i] != last[i]), most)
    return alike if alike >= WORTH_SHARING else 0


def _compute_once(model: Any, prefix: Sequence[int], times: int) -> Any:
    """The cache of a prefix, for as many rows."""
    import torch

    ids = torch.tensor([list(prefix)], device=model.device)
    cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(times)
    return cache


def score(model: Any, texts: Sequence[tuple[Sequence[int], int]], top_k: int) -> list[TokenLogprobs]:
    """The model's view of each text from its token `start` on, given all before it. `texts`: (ids, start)."""
    import torch

    wanted = max(len(ids) - start for ids, start in texts)
    with torch.inference_mode():
        ids, mask, positions = pad_left([ids for ids, _ in texts], model.device)
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=wanted + 1,
        )
        views = []
        for (text, start), logits in zip(texts, out.logits, strict=True):
            tokens = torch.tensor(text[start:], device=model.device)
            views.append(measure(logits[-len(tokens) - 1 : -1], tokens, top_k))
    return views


def pad_left(rows: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, positions), each [B, L]: all rows end at the right edge, and positions start where the text does."""
    import torch

    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def measure(logits: Tensor, tokens: Tensor, top_k: int) -> TokenLogprobs:
    """Log-probabilities at temperature 1 in float32. logits [T, V], tokens [T]."""
    import torch

    chosen, best, likeliest = [], [], []
    for at in range(0, len(tokens), CHUNK):
        part = logits[at : at + CHUNK].float()
        total = part.logsumexp(-1, keepdim=True)
        chosen.append((part.gather(1, tokens[at : at + CHUNK, None]) - total).squeeze(1))
        values, places = part.topk(top_k)
        best.append(places)
        likeliest.append(values - total)

    tops = torch.cat(likeliest)
    residual = (1.0 - tops.exp().sum(-1)).clamp(0.0, 1.0)
    fields = (tokens, torch.cat(chosen), torch.cat(best), tops, residual)
    return TokenLogprobs(*(f.cpu().numpy() for f in fields))


def join(parts: Sequence[TokenLogprobs]) -> TokenLogprobs:
    """One after another, along T."""
    import numpy as np

    names = ("token_ids", "token_logprobs", "top_ids", "top_logprobs", "residual")
    return TokenLogprobs(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def _measure_rows(rows: Sequence[Row], logits: Tensor, chosen: Tensor) -> None:
    """Keeps the model's view of the token that was chosen, for the rows that want it."""
    for i, row in enumerate(rows):
        if k := row.asked.top_k:
            row.measured.append(measure(logits[i : i + 1], chosen[i : i + 1], k))


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """How each of B rows is sampled: temperature, top_p and penalties [B, 1]. `seen` [B, V] counts the tokens of each
    reply so far, where a penalty wants it."""

    temperature: Tensor
    top_p: Tensor
    presence: Tensor
    frequency: Tensor
    seen: Tensor | None

    @classmethod
    def of(cls, samplings: Sequence[Sampling], width: int, device: Any) -> Sampler:
        """`width`: V, the number of logits."""
        import torch

        def column(name: str) -> Tensor:
            return torch.tensor([[float(getattr(s, name))] for s in samplings], device=device)

        penalized = any(s.presence_penalty or s.frequency_penalty for s in samplings)
        return cls(
            column("temperature"),
            column("top_p"),
            column("presence_penalty"),
            column("frequency_penalty"),
            torch.zeros(len(samplings), width, device=device) if penalized else None,
        )

    def only(self, keep: Tensor) -> Sampler:
        """The rows that go on."""
        return Sampler(
            self.temperature[keep],
            self.top_p[keep],
            self.presence[keep],
            self.frequency[keep],
            None if self.seen is None else self.seen[keep],
        )

    def choose(self, logits: Tensor, uniform: Sequence[float]) -> Tensor:
        """The next token of each row [B], from logits [B, V] and a random number in [0, 1) a row.

        The token at which the summed probability exceeds that number; at temperature 0 the likeliest.
        """
        import torch

        if self.seen is not None:  # OpenAI's definition, over the reply's own tokens
            logits = logits - self.seen * self.frequency - (self.seen > 0) * self.presence
        chosen, warm = logits.argmax(-1, keepdim=True), self.temperature > 0
        if bool(warm.any()):
            weights, places = _nucleus((logits / self.temperature.where(warm, 1.0)).softmax(-1), self.top_p)
            summed = weights.cumsum(-1, dtype=torch.float64)
            at = torch.tensor(uniform, device=logits.device, dtype=torch.float64)[:, None] * summed[:, -1:]
            found = torch.searchsorted(summed, at, right=True).clamp(max=summed.shape[1] - 1)
            chosen = torch.where(warm, found if places is None else places.gather(1, found), chosen)
        if self.seen is not None:
            self.seen.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=self.seen.dtype))
        return chosen.squeeze(1)


def _nucleus(probabilities: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor | None]:
    """The fewest likeliest tokens that hold `top_p` (arXiv 1904.09751, §3.1): (weights, their tokens), or all tokens in
    their own order where nothing is cut."""
    if bool((top_p >= 1).all()):
        return probabilities, None
    weights, places = probabilities.topk(min(NUCLEUS, probabilities.shape[1]))
    if bool((weights.sum(-1, keepdim=True) < top_p).any()):
        weights, places = probabilities.sort(-1, descending=True)
    before = weights.cumsum(-1) - weights
    return weights * (before < top_p), places
