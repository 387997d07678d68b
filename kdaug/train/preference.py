"""Direct preference optimisation (DPO, arXiv 2305.18290): prefer the chosen answer to the rejected one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from kdaug.chat import Chat
from kdaug.device import pick_device, threads
from kdaug.train.batching import Document, Encoded, encode
from kdaug.train.loop import OnStep, train
from kdaug.train.losses import dpo, dpo_margin
from kdaug.train.settings import Settings, setting
from kdaug.train.student import Folder, Student, load, locate, replacing

if TYPE_CHECKING:
    from torch import Tensor

REFERENCE = "reference.json"


@dataclass(frozen=True, kw_only=True)
class DPO(Settings):
    """Train a student on pairs; the reference is the student as it was, its log-probabilities computed once.

    A unit is a pair; those of a forward pass are packed into rows of `length` tokens.
    """

    beta: float = setting(0.1, "how dearly the student pays for leaving the reference", 0)  # paper, appendix B
    label_smoothing: float = setting(0.0, "how likely a pair is taken to be the wrong way round", 0, 0.5)
    epochs: int = 1
    lr: float = 5e-7  # Zephyr, DEITA
    batch: int = 2
    accumulate: int = 16  # 32 pairs a step: Zephyr

    def fit(self, data: Any, *, student: str | Path, out: str | Path, on_step: OnStep | None = None) -> Path:
        """Train `student` (a name or a folder) on preference records and return `out`, the folder of the new model.

        Steps report `margin` (h, in nats), `accuracy` (pairs with h over 0) and the implicit rewards `chosen` and
        `rejected`. Resuming and errors are as in `SFT.fit`.
        """
        device, source = pick_device(self.device), locate(student)
        chat = Chat.load(source)
        encoded = encode(data, "preference", chat, self.length)
        folder = Folder(Path(out), self, student, source, encoded)
        if not folder.finished:
            with threads():
                pupil = load(source, chat, device, self.dtype)
                pairs = with_reference(pupil, encoded, folder, self.length)
                objective = Preference(pupil, self.length, self.beta, self.label_smoothing)
                train(self, pupil, pairs, objective, folder, on_step)
                (folder.path / REFERENCE).unlink()
        return folder.path


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, and what the reference gives them: summed log-probabilities."""

    chosen: Document
    rejected: Document
    ref_chosen: float
    ref_rejected: float


@dataclass(frozen=True, slots=True)
class Preference:
    """The DPO loss, averaged over pairs."""

    student: Student
    length: int
    beta: float
    label_smoothing: float

    def weight(self, unit: Pair) -> int:
        return 1

    def tokens(self, unit: Pair) -> int:
        return len(unit.chosen) + len(unit.rejected)

    def loss(self, units: Sequence[Pair]) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        documents = [d for pair in units for d in (pair.chosen, pair.rejected)]
        chosen, rejected = self.student.sums(documents, self.length).view(-1, 2).T
        reference = [(pair.ref_chosen, pair.ref_rejected) for pair in units]
        ref_chosen, ref_rejected = torch.tensor(reference, device=chosen.device).T
        margin = dpo_margin(chosen, rejected, ref_chosen, ref_rejected)
        return dpo(margin, self.beta, self.label_smoothing).sum(), {
            "margin": margin.sum(),
            "accuracy": (margin > 0).float().sum(),
            "chosen": self.beta * (chosen - ref_chosen).sum(),
            "rejected": self.beta * (rejected - ref_rejected).sum(),
        }


def with_reference(student: Student, data: Encoded, folder: Folder, length: int) -> list[Pair]:
    """Every pair with its reference log-probabilities: of this student before its first step.

    They are kept in the folder while it is trained, under a key of all they depend on: the student with its tokenizer
    and template, the records, `length` and the precision.
    """
    file = folder.path / REFERENCE
    key = [folder.facts["student"], folder.facts["data"], length, student.half]
    saved: dict[str, Any] = orjson.loads(file.read_bytes()) if file.is_file() else {}
    if saved.get("key") != key:
        saved = {"key": key, "logprobs": _score(student, list(chain.from_iterable(data.documents)), length)}
        with replacing(file) as tmp:
            tmp.write_bytes(orjson.dumps(saved))
    scores = saved["logprobs"]
    return [
        Pair(chosen, rejected, scores[2 * i], scores[2 * i + 1]) for i, (chosen, rejected) in enumerate(data.documents)
    ]


def _score(student: Student, documents: Sequence[Document], length: int) -> list[float]:
    import torch

    student.model.eval()
    scores: list[float] = [0.0] * len(documents)
    with torch.no_grad():
        for row in student.plan([len(d) for d in documents], length):
            for i, score in zip(row, student.sums([documents[i] for i in row], length).tolist(), strict=True):
                scores[i] = score
    return scores
