"""How good a student is on held-out records: its likelihood, and how close it is to its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaug.chat import Chat
from kdaug.device import pick_device, threads
from kdaug.errors import ConfigError
from kdaug.train.batching import Batch, Document, collate, encode
from kdaug.train.divergences import forward_kl
from kdaug.train.losses import CHUNK, widen
from kdaug.train.student import Student, load, locate

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over the answers' tokens, in nats.

    `kl` is KL(teacher‖student); `top1` is how often both find the same token the likeliest. `truncated` and `dropped`
    are ids of records that were cut to `length`, and of those with nothing left to judge.
    """

    nll: float
    kl: float | None
    top1: float | None
    tokens: int
    records: int
    truncated: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def perplexity(self) -> float:
        return exp(self.nll)


def evaluate(
    model: str | Path,
    data: Any,
    *,
    teacher: str | Path | None = None,
    length: int = 2048,
    device: str = "auto",
    dtype: str = "auto",
) -> Evaluation:
    """Judge `model` on completion records, in the same chat template and mask as it is trained.

    Of a Dataset it takes the test split, where there is one. `dtype` is as in `SFT`. With a `teacher` of the same
    vocabulary (a name or a folder) it says how close the two are. Raises ConfigError where their vocabularies differ,
    and what `SFT.fit` raises for wrong data.
    """
    place, source = pick_device(device), locate(model)
    chat = Chat.load(source)
    other = None if teacher is None else locate(teacher)
    if other is not None:
        same_vocabulary(chat, other)
    encoded = encode(data, "completion", chat, length, "test")
    documents = [document for (document,) in encoded.documents]
    with threads():
        student = load(source, chat, place, dtype)
        guide = None if other is None else load(other, chat, place, dtype)
        nll, kl, top1 = _judge(student, guide, documents, length)
    known = guide is not None
    return Evaluation(
        nll / encoded.trained,
        kl / encoded.trained if known else None,
        top1 / encoded.trained if known else None,
        encoded.trained,
        len(documents),
        encoded.truncated,
        encoded.dropped,
    )


def same_vocabulary(chat: Chat, teacher: Path) -> None:
    """Raises ConfigError unless each id stands for the same piece of text in both."""
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(teacher).get_vocab(), chat.tokenizer.get_vocab()
    if ours != theirs:
        differ = len(set(ours.items()) ^ set(theirs.items()))
        raise ConfigError(
            f"{chat.name} and {teacher} have different vocabularies ({len(ours)} and {len(theirs)} tokens, {differ} "
            "entries differ), so their probabilities cannot be compared: evaluate without a teacher"
        )


def _judge(student: Student, teacher: Student | None, documents: Sequence[Document], length: int) -> list[float]:
    """Sums over all tokens of: negative log-likelihood, KL(teacher‖student), agreement of the likeliest token."""
    import torch

    models = [student] if teacher is None else [student, teacher]
    for model in models:
        model.model.eval()
    sizes = [len(d) for d in documents]
    plan = student.plan(sizes, length) if all(m.packs for m in models) else [[i] for i in range(len(sizes))]
    sums = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for row in plan:
            sums += _judge_batch(models, collate([[documents[i] for i in row]], student.chat.pad))
    totals: list[float] = sums.tolist()
    return totals


def _judge_batch(models: Sequence[Student], batch: Batch) -> Tensor:
    import torch
    from torch.nn import functional as F

    # Heads may be padded to a round number of rows: only the tokenizer's own ids count.
    vocabulary = max(models[0].chat.tokenizer.get_vocab().values()) + 1
    sums = torch.zeros(3, dtype=torch.float64)
    with models[0].precision():
        seen = [model.hidden(batch) for model in models]
        targets = seen[0][1]
        for wanted, *chunks in zip(targets.split(CHUNK), *(states.split(CHUNK) for states, _, _ in seen), strict=True):
            logits = [widen(F.linear(h, m.head[:vocabulary])) for h, m in zip(chunks, models, strict=True)]
            log_q, *log_p = (z.log_softmax(-1) for z in logits)
            sums[0] -= log_q.gather(1, wanted[:, None]).sum().cpu()
            for log_t in log_p:
                sums[1] += forward_kl(log_t, log_q).sum().cpu()
                sums[2] += (log_t.argmax(-1) == log_q.argmax(-1)).sum().cpu()
    return sums
