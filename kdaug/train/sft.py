"""Supervised fine-tuning: raise the likelihood of the teacher's answers.

On sampled or greedy answers of a teacher that is sequence-level distillation (arXiv 1606.07947, §3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kdaug.chat import Chat
from kdaug.device import pick_device, threads
from kdaug.train.batching import Document, Encoded, collate, encode_held_out
from kdaug.train.folder import Folder
from kdaug.train.loop import OnStep, train
from kdaug.train.memory import enough
from kdaug.train.settings import Settings
from kdaug.train.student import Student, load, locate

if TYPE_CHECKING:
    from torch import Tensor

Row: TypeAlias = Sequence[Document]


@dataclass(frozen=True, kw_only=True)
class SFT(Settings):
    """Train a student on completions: cross-entropy of the answers' tokens, averaged over all of a step.

    A unit is a row of `length` tokens, packed with whole documents.
    """

    def fit(self, data: Any, *, student: str | Path, out: str | Path, on_step: OnStep | None = None) -> Path:
        """Train `student` (a name or a folder) on completion records and return `out`, the folder of the new model.

        Called again with the same settings and data it goes on where it was stopped. Raises ConfigError for wrong
        settings, data of another kind or a folder that holds something else, TrainError where training cannot work.
        """
        device, source = pick_device(self.device), locate(student)
        chat = Chat.load(source)
        encoded = self.encoded(data, chat)
        judged = encode_held_out(data, chat, self)
        folder = Folder(Path(out), self, student, source, encoded)
        if not folder.finished:
            with threads(), enough(device):
                pupil = load(source, chat, device, self.dtype)
                rows = _rows(pupil, encoded, self.length)
                held_out = _rows(pupil, judged, self.length) if judged else ()
                train(self, pupil, rows, Likelihood(pupil), folder, on_step, held_out)
        return folder.path


def _rows(student: Student, data: Encoded, length: int) -> list[Row]:
    documents = [document for (document,) in data.documents]
    return [[documents[i] for i in row] for row in student.plan([len(d) for d in documents], length)]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Minus the log-probability of the trained tokens, averaged over tokens."""

    student: Student

    def weight(self, unit: Row) -> int:
        return sum(document.trained for document in unit)

    def documents(self, unit: Row) -> Row:
        return unit

    def loss(self, units: Sequence[Row]) -> tuple[Tensor, dict[str, Tensor]]:
        logprobs, _ = self.student.logprobs(collate(units, self.student.chat.pad))
        return -logprobs.sum(), {}
