"""A white-box teacher beside the student: its hidden states at the trained tokens, computed now or once and for all.

From these its head gives its probabilities a chunk at a time; the logits of a whole row are never held.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kdaug.chat import Chat
from kdaug.errors import ConfigError, TrainError
from kdaug.train.batching import Batch, Document, collate
from kdaug.train.checkpoint import replacing
from kdaug.train.lesson import Lesson
from kdaug.train.student import LAST, Student, digest, load
from kdaug.train.vocabularies import compare_vocabularies

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
LARGEST = 65504.0  # of float16


class Guide(Protocol):
    """The teacher at the N trained tokens of a batch: its states [N, d], by layer; of the LAST its head [V, d] makes
    logits."""

    @property
    def head(self) -> Tensor: ...
    @property
    def packs(self) -> bool: ...
    def layers(self, batch: Batch, lessons: Sequence[Lesson], which: Collection[int] = ()) -> Mapping[int, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Present:
    """The teacher in memory, in the precision that it computes in."""

    teacher: Student

    @classmethod
    def load(cls, folder: Path, chat: Chat, device: str, dtype: str) -> Present:
        import torch

        teacher = load(folder, chat, device, dtype)
        teacher.model.requires_grad_(False).eval()
        if teacher.half:
            teacher.model.to(torch.bfloat16)
        return cls(teacher)

    @property
    def head(self) -> Tensor:
        return self.teacher.head

    @property
    def packs(self) -> bool:
        return self.teacher.packs

    def layers(self, batch: Batch, lessons: Sequence[Lesson] = (), which: Collection[int] = ()) -> Mapping[int, Tensor]:
        return self.seen(batch, which)[0]

    def seen(self, batch: Batch, which: Collection[int] = ()) -> tuple[dict[int, Tensor], Tensor, Tensor]:
        """As `Student.layers`, without a gradient."""
        import torch

        with torch.no_grad(), self.teacher.precision():
            return self.teacher.layers(batch, which)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a teacher said about the data, from the disk: it need not be loaded again for another epoch or student.

    `kept` [tokens of all documents, d] in float16, of which document i has those from `starts[i]` to `starts[i+1]`.
    """

    kept: Any  # a numpy memmap
    starts: Sequence[int]
    head: Tensor
    packs: bool = True

    def layers(self, batch: Batch, lessons: Sequence[Lesson], which: Collection[int] = ()) -> Mapping[int, Tensor]:
        """`which` can be the last alone: no other is kept."""
        import numpy as np
        import torch

        numbers = [lesson.number for lesson in lessons if lesson.number is not None]
        spans = [self.kept[self.starts[n] : self.starts[n + 1]] for n in numbers]
        states = torch.from_numpy(np.concatenate(spans)).to(self.head.device, self.head.dtype)
        return dict.fromkeys((LAST, *which), states)


def remember(
    folder: Path, teacher: Path, documents: Sequence[Document], length: int, loading: Callable[[], Present], device: str
) -> Remembered:
    """What is kept in `folder` of this teacher and these documents; computed, and kept there, where it is not yet.

    Raises TrainError for states beyond float16.
    """
    import numpy as np
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    name = _key(teacher, documents)
    states, head = folder / f"{name}.npy", folder / f"{name}.head.safetensors"
    if not states.is_file():
        guide = loading()
        with replacing(head) as tmp:
            save_file({"head": guide.head.detach().contiguous()}, tmp)
        with replacing(states) as tmp:
            _write(guide, documents, length, tmp)
        _log.info("kept the teacher's states at %d tokens in %s", sum(d.trained for d in documents), states)
    starts = [0, *accumulate(d.trained for d in documents)]
    return Remembered(np.load(states, mmap_mode="r"), starts, load_file(head, device=device)["head"])


def _write(guide: Present, documents: Sequence[Document], length: int, file: Path) -> None:
    import numpy as np

    starts = [0, *accumulate(d.trained for d in documents)]
    shape = (starts[-1], guide.head.shape[1])
    kept: Any = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)  # type: ignore[no-untyped-call]
    for row in guide.teacher.plan([len(d) for d in documents], length):
        states, _, _ = guide.seen(collate([[documents[i] for i in row]], guide.teacher.chat.pad))
        last = states[LAST].float().cpu()
        if not bool((last.abs() <= LARGEST).all()):
            raise TrainError("the teacher's hidden states are too large for float16: leave out cache")
        for i, part in zip(row, last.split([documents[i].trained for i in row]), strict=True):
            kept[starts[i] : starts[i + 1]] = part.numpy()
    kept.flush()


def _key(teacher: Path, documents: Sequence[Document]) -> str:
    body = hashlib.blake2b(digest(teacher).encode(), digest_size=8)
    for document in documents:
        body.update(document.ids.tobytes() + document.targets.tobytes())
    return body.hexdigest()


def shared_vocabulary(chat: Chat, student: Path, teacher: Path) -> int:
    """How many tokens student and teacher share: each id stands for the same text. Raises ConfigError otherwise."""
    found = compare_vocabularies(student, teacher)
    if found.same:
        _log.info("%s", found.says)
    else:
        raise ConfigError(
            f"student {chat.name} and teacher {teacher}: {found.says}: choose a teacher of the student's family, or "
            "divergence=gold (or uld)"
        )
    return int(max(chat.tokenizer.get_vocab().values())) + 1


def alone(sizes: Sequence[int], length: int) -> list[list[int]]:
    """One document a row, for a model that would let those of a row see each other: `Student.plan` of such a one."""
    return [[i] for i in range(len(sizes))]
