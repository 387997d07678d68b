"""The log-probabilities of a run's replies, in binary files beside its journal: a teacher's view that outlives it.

    logprobs/00000.bin    views one after the other; the journal's reply says where its own is
    a view                token_ids u32 [T], token_logprobs f32 [T], residual f32 [T],
                          top_ids u32 [T, k], context_ids u32 [C], top_logprobs f16 [T, k]

So an alternative takes 6 bytes. A log-probability of -8 to -16 is exact to 0.004 then (half of float16's step there),
one above -1 to 0.0003. Little-endian.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaug.errors import JournalError
from kdaug.teacher import TokenLogprobs

if TYPE_CHECKING:
    import numpy as np

SHARD_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Place:
    """Where a view is, and its shape: `tokens` T, `top_k` k, `context` C; `tokenizer`: a hash of the vocabulary."""

    shard: int
    offset: int
    tokens: int
    top_k: int
    context: int
    tokenizer: str = ""

    @property
    def size(self) -> int:
        """In bytes; a multiple of 4, so that every view is aligned."""
        return 12 * self.tokens + 4 * self.context + -(-6 * self.tokens * self.top_k // 4) * 4


class Shards:
    """The views of one run. `add` says where a view will be, `write` puts it there for good, `read` maps it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[tuple[Place, TokenLogprobs]] = []
        self._maps: dict[int, np.memmap[Any, Any]] = {}
        files = sorted(folder.glob("*.bin"))
        self._shard = int(files[-1].stem) if files else 0
        # What a kill left behind a last view is never read: the next one goes after it, aligned again.
        self._end = -(-files[-1].stat().st_size // 4) * 4 if files else 0

    def add(self, view: TokenLogprobs) -> Place:
        if self._end >= SHARD_BYTES:
            self._shard, self._end = self._shard + 1, 0
        tokens, top_k = view.top_ids.shape
        place = Place(self._shard, self._end, tokens, top_k, len(view.context_ids), view.tokenizer)
        self._end += place.size
        self._waiting.append((place, view))
        return place

    def take(self) -> list[tuple[Place, TokenLogprobs]]:
        """What was added since, to be written."""
        taken, self._waiting = self._waiting, []
        return taken

    def write(self, views: list[tuple[Place, TokenLogprobs]]) -> None:
        """Returns when they are durable. Raises JournalError where the disk does not take them."""
        try:
            self._folder.mkdir(exist_ok=True)
            for shard in sorted({place.shard for place, _ in views}):
                descriptor = os.open(self._path(shard), os.O_WRONLY | os.O_CREAT, 0o644)
                try:
                    for place, view in views:
                        if place.shard == shard:
                            os.pwrite(descriptor, _pack(view, place.size), place.offset)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as e:
            way_out = "free the disk or make the folder writable, then run the same command: nothing is lost"
            raise JournalError(f"cannot write {self._folder} ({e.strerror}): {way_out}") from e

    def read(self, place: Place) -> TokenLogprobs:
        """The view, its large parts mapped, not copied. Raises JournalError where the file is not what it was."""
        import numpy as np

        data = self._mapped(place)
        t, k, c, at = place.tokens, place.top_k, place.context, place.offset
        ends = [at + 4 * t, at + 8 * t, at + 12 * t, at + 12 * t + 4 * t * k, at + 12 * t + 4 * t * k + 4 * c]
        ids, chosen, residual, top_ids, context = (
            data[start:end].view(kind)
            for start, end, kind in zip([at, *ends], ends, ("<u4", "<f4", "<f4", "<u4", "<u4"), strict=False)
        )
        tops = data[ends[-1] : ends[-1] + 2 * t * k].view("<f2")
        return TokenLogprobs(
            ids.astype(np.int64),
            chosen,
            top_ids.reshape(t, k).astype(np.int64),
            tops.reshape(t, k).astype(np.float32),
            residual,
            context.astype(np.int64),
            place.tokenizer,
        )

    def _mapped(self, place: Place) -> np.memmap[Any, Any]:
        import numpy as np

        found = self._maps.get(place.shard)
        if found is None or len(found) < place.offset + place.size:
            path = self._path(place.shard)
            try:
                found = self._maps[place.shard] = np.memmap(path, dtype=np.uint8, mode="r")
            except (OSError, ValueError) as e:  # numpy's own for an empty file
                raise JournalError(f"{path} is missing or cannot be read ({e}): restore it from a copy") from e
            if len(found) < place.offset + place.size:
                raise JournalError(f"{path} is shorter than the journal says: restore it from a copy")
        return found

    def _path(self, shard: int) -> Path:
        return self._folder / f"{shard:05d}.bin"


def _pack(view: TokenLogprobs, size: int) -> bytes:
    parts = (
        (view.token_ids, "<u4"),
        (view.token_logprobs, "<f4"),
        (view.residual, "<f4"),
        (view.top_ids, "<u4"),
        (view.context_ids, "<u4"),
        (view.top_logprobs, "<f2"),
    )
    return b"".join(array.astype(kind).tobytes() for array, kind in parts).ljust(size, b"\0")
