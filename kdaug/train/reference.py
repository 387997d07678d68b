"""What the reference says of answers: the student as it was before its first step, asked once and then let go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from kdaug.train.batching import Document
from kdaug.train.student import Folder, Student, replacing

REFERENCE = "reference.json"


def reference_logprobs(student: Student, documents: Sequence[Document], folder: Folder, length: int) -> list[float]:
    """Of each document the summed log-probability of its answer, by this student before its first step.

    They are kept in the folder while it is trained, under a key of all they depend on: the student with its tokenizer
    and template, the records, `length` and the precision.
    """
    file = folder.path / REFERENCE
    key = [folder.facts["student"], folder.facts["data"], len(documents), length, student.half]
    saved: dict[str, Any] = orjson.loads(file.read_bytes()) if file.is_file() else {}
    if saved.get("key") != key:
        saved = {"key": key, "logprobs": _score(student, documents, length)}
        with replacing(file) as tmp:
            tmp.write_bytes(orjson.dumps(saved))
    scores: list[float] = saved["logprobs"]
    return scores


def forget(folder: Folder) -> None:
    """A finished training needs its reference no more."""
    (folder.path / REFERENCE).unlink(missing_ok=True)


def _score(student: Student, documents: Sequence[Document], length: int) -> list[float]:
    import torch

    student.model.eval()
    scores: list[float] = [0.0] * len(documents)
    with torch.no_grad():
        for row in student.plan([len(d) for d in documents], length):
            for i, score in zip(row, student.sums([documents[i] for i in row], length).tolist(), strict=True):
                scores[i] = score
    return scores
