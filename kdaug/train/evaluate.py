"""How good a student is on held-out records: its likelihood, and how close it is to its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdaug.chat import Chat
from kdaug.device import pick_device, threads
from kdaug.errors import ConfigError
from kdaug.intervals import bootstrap_ratio
from kdaug.train.batching import Batch, Document, collate, encode
from kdaug.train.comparison import Figure, Row, Table
from kdaug.train.divergences import forward_kl
from kdaug.train.losses import CHUNK, widen
from kdaug.train.origin import short_name
from kdaug.train.student import Student, load, locate

if TYPE_CHECKING:
    from torch import Tensor


class Judged(NamedTuple):
    """One record: sums over its `tokens` answer tokens of negative log-likelihood, of KL(teacher‖student), and how
    often both find the same token the likeliest (the last two 0 without a teacher)."""

    nll: float
    kl: float
    top1: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over the answers' tokens, in nats.

    `kl` is KL(teacher‖student); `top1` is how often both find the same token the likeliest. `truncated` and `dropped`
    are ids of records that were cut to `length`, and of those with nothing left to judge. `by_record`: the sums behind
    the means, in the order of the records.
    """

    nll: float
    kl: float | None
    top1: float | None
    tokens: int
    records: int
    truncated: tuple[str, ...]
    dropped: tuple[str, ...]
    by_record: tuple[Judged, ...] = field(default=(), repr=False)

    @property
    def perplexity(self) -> float:
        return exp(self.nll)

    def figures(self, seed: int = 0) -> dict[str, Figure]:
        """The means with their 95 % intervals: a bootstrap over records, as one record's tokens hang together."""
        tokens = [float(judged.tokens) for judged in self.by_record]
        found: dict[str, Figure] = {}
        for name in ("nll", "kl", "top1"):
            value = getattr(self, name)
            if value is not None:
                sums = [float(getattr(judged, name)) for judged in self.by_record]
                found[name] = Figure(value, *bootstrap_ratio(sums, tokens, seed), self.records)
        return found


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
        judged = _judge(student, guide, documents, length)
    known = guide is not None
    nll, kl, top1 = (sum(getattr(j, name) for j in judged) / encoded.trained for name in ("nll", "kl", "top1"))
    return Evaluation(
        nll,
        kl if known else None,
        top1 if known else None,
        encoded.trained,
        len(documents),
        encoded.truncated,
        encoded.dropped,
        tuple(judged),
    )


def compare_held_out(
    models: Mapping[str, str],
    data: Any,
    name: str,
    *,
    teacher: str | None = None,
    length: int = 2048,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
) -> Table:
    """`evaluate` of several models, and of the teacher alone, as one table.

    `models`: what is located, by the name that it goes by in the table. `name`: of the data, for people.
    Raises ConfigError as `evaluate` does.
    """
    how: dict[str, Any] = {"length": length, "device": device, "dtype": dtype}
    found = [evaluate(model, data, teacher=teacher, **how) for model in models.values()]
    rows = [Row(called, one.figures(seed)) for called, one in zip(models, found, strict=True)]
    if teacher is not None:
        rows.append(Row(short_name(teacher), evaluate(teacher, data, **how).figures(seed), "teacher"))
    tokens = " or ".join(dict.fromkeys(str(one.tokens) for one in found))
    about = (
        f"{found[0].records} records, {tokens} answer tokens; nats a token; in brackets 95 % intervals, a bootstrap "
        f"over records (seed {seed})."
    )
    notes, located = [], [*models.values(), *([teacher] if teacher else [])]
    if len({Chat.load(locate(model)).digest for model in located}) > 1:
        notes.append("the models have different vocabularies, so their NLL a token is not to be compared")
    if cut := max(len(e.truncated) + len(e.dropped) for e in found):
        notes.append(f"{cut} records were cut to {length} tokens, or left out because nothing of the answer was left")
    return Table("Held-out records", name, rows, about, notes)


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


def _judge(student: Student, teacher: Student | None, documents: Sequence[Document], length: int) -> list[Judged]:
    import torch

    models = [student] if teacher is None else [student, teacher]
    for model in models:
        model.model.eval()
    sizes = [len(d) for d in documents]
    plan = student.plan(sizes, length) if all(m.packs for m in models) else [[i] for i in range(len(sizes))]
    found: dict[int, Judged] = {}
    with torch.no_grad():
        for row in plan:
            sums = _judge_batch(models, collate([[documents[i] for i in row]], student.chat.pad), len(row))
            for i, (nll, kl, top1) in zip(row, sums.tolist(), strict=True):
                found[i] = Judged(nll, kl, top1, documents[i].trained)
    return [found[i] for i in range(len(documents))]


def _judge_batch(models: Sequence[Student], batch: Batch, documents: int) -> Tensor:
    """Of each document of a batch, the three sums of `Judged` [documents, 3]."""
    import torch
    from torch.nn import functional as F

    # Heads may be padded to a round number of rows: only the tokenizer's own ids count.
    vocabulary = max(models[0].chat.tokenizer.get_vocab().values()) + 1
    sums = torch.zeros(documents, 3, dtype=torch.float64)
    with models[0].precision():
        seen = [model.hidden(batch) for model in models]
        _, targets, owner = seen[0]
        states = (hidden.split(CHUNK) for hidden, _, _ in seen)
        for wanted, of, *chunks in zip(targets.split(CHUNK), owner.split(CHUNK), *states, strict=True):
            logits = [widen(F.linear(h, m.head[:vocabulary])) for h, m in zip(chunks, models, strict=True)]
            log_q, *log_p = (z.log_softmax(-1) for z in logits)
            columns = [-log_q.gather(1, wanted[:, None]).squeeze(1), torch.zeros_like(log_q[:, 0])]
            columns.append(columns[1])
            for log_t in log_p:
                columns[1:] = forward_kl(log_t, log_q), (log_t.argmax(-1) == log_q.argmax(-1)).to(log_q.dtype)
            sums.index_add_(0, of.cpu(), torch.stack(columns, 1).double().cpu())
    return sums
