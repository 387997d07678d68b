"""What the reference says of answers: the student as it was before its first step, asked once and then let go."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import orjson

from kdaug.train.batching import Document
from kdaug.train.checkpoint import replacing
from kdaug.train.folder import Folder
from kdaug.train.student import Student

REFERENCE = "reference.json"


def reference_logprobs(student: Student, documents: Sequence[Document], folder: Folder, length: int) -> list[float]:
    """Of each document the summed log-probability of its answer, by this student before its first step.

    They are kept in the folder while it is trained, under a digest of all they depend on: the student with its
    tokenizer and template, the tokens, and the precision.
    """
    file, key = folder.path / REFERENCE, _digest(student, documents, folder)
    saved: dict[str, Any] = orjson.loads(file.read_bytes()) if file.is_file() else {}
    if key not in saved:
        saved[key] = _score(student, documents, length)
        if int(os.environ.get("RANK", "0")) == 0:  # of several processes the first writes
            folder.path.mkdir(parents=True, exist_ok=True)
            with replacing(file) as tmp:
                tmp.write_bytes(orjson.dumps(saved))
    scores: list[float] = saved[key]
    return scores


def forget(folder: Folder) -> None:
    """A finished training needs its reference no more."""
    (folder.path / REFERENCE).unlink(missing_ok=True)


def _digest(student: Student, documents: Sequence[Document], folder: Folder) -> str:
    body = hashlib.blake2b(orjson.dumps([folder.facts["student"], student.half]), digest_size=16)
    for document in documents:
        body.update(len(document).to_bytes(8, "little") + document.ids.tobytes() + document.targets.tobytes())
    return body.hexdigest()


def _score(student: Student, documents: Sequence[Document], length: int) -> list[float]:
    import torch

    student.model.eval()
    scores: list[float] = [0.0] * len(documents)
    with torch.no_grad():
        for row in student.plan([len(d) for d in documents], length):
            for i, score in zip(row, student.sums([documents[i] for i in row], length).tolist(), strict=True):
                scores[i] = score
    return scores
