"""Training data larger than memory: their tokens lie in a file that is mapped, and come as they are trained on."""

from __future__ import annotations

import mmap
import tempfile
from array import array
from collections.abc import Sequence
from dataclasses import replace

from kdaug.train.document import Document


class Shelf:
    """Documents that are put here keep their tokens in an unnamed file of the temporary folder (TMPDIR), which is gone
    when the last of them is. In memory stays what is looked at, and what the system has room for."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="kdaug-")  # noqa: SIM115  # open as long as the shelf
        self._end = 0

    def put(self, documents: Sequence[Document]) -> list[Document]:
        """The same documents, on the shelf."""
        tokens = array("i")
        for document in documents:
            tokens += array("i", document.ids)
            tokens += array("i", document.targets)
        if not tokens:
            return list(documents)
        view = self._write(tokens)
        made, at = [], 0
        for document in documents:
            middle, end = at + len(document), at + 2 * len(document)
            made.append(replace(document, ids=view[at:middle], targets=view[middle:end]))
            at = end
        return made

    def _write(self, tokens: array[int]) -> memoryview[int]:
        size = len(tokens) * tokens.itemsize
        self._file.seek(self._end)
        self._file.write(tokens)
        self._file.flush()
        start = self._end // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY  # a map begins at a whole page
        mapped = mmap.mmap(self._file.fileno(), self._end - start + size, offset=start)
        view = memoryview(mapped)[self._end - start :].cast("i")
        self._end += size
        return view
