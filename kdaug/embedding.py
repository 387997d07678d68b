"""Sentence embeddings: unit vectors, in the precision and order that are fastest here, kept on disk by content."""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from kdaug.device import half_is_faster, pick_device
from kdaug.errors import ConfigError, KdaugError, require, shorten
from kdaug.models import Model, cache_folder, find_encoder

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    Array: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]  # [rows, dimensions] or [dimensions]; Any: the shape

Step: TypeAlias = Callable[[], None]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]

# Tokens in one pass of the model, 32 texts of 16: on a CPU, batches of 32 of like length beat 128. Lengths are rounded
# up to STEP in bfloat16, where passes want one shape, and to FINE in float32.
TOKENS, STEP, FINE = 512, 16, 4
CHUNK = 1024  # texts between two writes to the disk: what a kill loses
MOST = 1_000_000  # vectors that are kept of one encoder, the newest: 1.6 GB at 384 dimensions
LOG = logging.getLogger("kdaug")


def nothing() -> None:
    """Nobody has anything to say between two steps."""


@dataclass(frozen=True)
class Embedder:
    """Embeds texts with a sentence-transformers model: a folder, an installed package or a name on the Hub (None:
    kdaug's default, all-MiniLM-L6-v2).

    `precision` `auto` is bfloat16 where a probe shows that this machine multiplies it faster. Vectors are kept in
    `embeddings/` of the cache (KDAUG_CACHE), by the text's content, the model and the precision, so a text is embedded
    once; of each model the newest million are kept. A model reads only the first tokens of a long text (256 for
    all-MiniLM-L6-v2).

    Raises ConfigError where sentence-transformers is not installed, or `model` is no encoder.
    """

    model: str | None = None
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            names = ", ".join(get_args(Precision))
            raise ConfigError(f"embedding: precision must be one of {names}, not {self.precision!r}")
        require("sentence_transformers", "embed", "embedding")

    @cached_property
    def found(self) -> Model:
        """The model that was found. Raises ConfigError for a folder that holds none."""
        return find_encoder(self.model)

    def embed(self, texts: Sequence[str], step: Step = nothing) -> Array:
        """Unit vectors, float32, [texts, dimensions]. It blocks: in a coroutine, call it in a thread. `step` is called
        between passes of the model, and may raise.

        Raises KdaugError where the model gives a vector of zeros or of numbers that are not finite.
        """
        rows = self.rows(texts, step)
        for text, has in zip(texts, has_numbers(rows), strict=True):
            if not has:
                raise self._useless(text)
        return rows

    def rows(self, texts: Sequence[str], step: Step = nothing) -> Array:
        """As `embed`, but a text that the model gives zeros or no numbers has a row of NaN: one text ends no run.

        Raises KdaugError where the model gives nothing else.
        """
        import numpy as np

        half = self._half
        store = _Store(self.found, half)
        keys = [_key(text) for text in texts]
        known = store.read(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        by_length = sorted(missing, key=lambda key: len(missing[key]))
        for start in range(0, len(by_length), CHUNK):
            chunk = by_length[start : start + CHUNK]
            made = self._compute([missing[key] for key in chunk], half, step)
            fine = has_numbers(made)
            if not fine.all() and not has_numbers(self._compute(["Hello"], half)).all():
                raise self._useless(missing[chunk[int(np.argmin(fine))]])
            rows = dict(zip(chunk, made, strict=True))
            store.write({key: row for key, row, has in zip(chunk, made, fine, strict=True) if has})
            known |= rows
        return np.stack([known[key] for key in keys]) if keys else np.empty((0, 0), np.float32)

    def _useless(self, text: str) -> KdaugError:
        return KdaugError(
            f"the encoder in {self.found.path} gives zeros, or numbers that are not finite for {shorten(text)!r}"
        )

    @property
    def _half(self) -> bool:
        return half_is_faster(pick_device("auto")) if self.precision == "auto" else self.precision == "bfloat16"

    def _compute(self, texts: list[str], half: bool, step: Step = nothing) -> Array:
        """In bfloat16 every pass over texts of one length in tokens (rounded up to STEP) has the same shape, whoever
        else is embedded: so a vector does not depend on its company, where it would in the third digit. In float32 it
        would in the seventh, which is not worth the padding."""
        import numpy as np

        encoder, grain = _encoder(self.found.path, half), STEP if half else FINE
        texts = [text.encode(errors="replace").decode() for text in texts]  # a lone surrogate is no tokenizer's input
        raw: Any = [None] * len(texts)
        with _one_at_a_time:
            for length, places in _by_tokens(encoder, texts, grain).items():
                step()
                size = max(1, TOKENS // length)
                filled = places + places[-1:] * (-len(places) % size) if half else places
                made = encoder.encode(
                    [texts[place] for place in filled],
                    batch_size=size,
                    show_progress_bar=False,
                    processing_kwargs={"text": {"pad_to_multiple_of": grain}},
                )
                for place, row in zip(places, made, strict=False):  # without what only fills up
                    raw[place] = row
        vectors = np.asarray(raw, np.float32)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            unit: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        unit[~np.isfinite(unit).all(axis=1)] = np.nan
        return unit


def has_numbers(rows: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows are vectors at all."""
    import numpy as np

    finite: np.ndarray[Any, np.dtype[np.bool_]] = np.isfinite(rows).all(axis=-1)
    return finite


def _by_tokens(encoder: SentenceTransformer, texts: list[str], step: int) -> dict[int, list[int]]:
    """The places of the texts by their length in tokens, rounded up to `step`; all as one if the encoder does not
    pad."""
    prompt = encoder.prompts.get(encoder.default_prompt_name or "", "")
    mask = encoder.preprocess([prompt + text for text in texts]).get("attention_mask")
    if mask is None:
        return {step: list(range(len(texts)))}
    groups: dict[int, list[int]] = {}
    for place, tokens in enumerate(mask.sum(dim=1).tolist()):
        groups.setdefault(max(step, -(-tokens // step) * step), []).append(place)
    return groups


class _Store:
    """One encoder's vectors on disk: an SQLite file that several processes read and write, and a kill leaves whole.

    A cache is a convenience: where it cannot be read or written, work goes on without it, and the log says so once.
    """

    def __init__(self, model: Model, half: bool) -> None:
        name = re.sub(r"[^\w.@-]+", "--", f"{model.name}-{'bfloat16' if half else 'float32'}")
        self._path = cache_folder() / "embeddings" / f"{name}.sqlite"

    def read(self, keys: Iterable[bytes]) -> dict[bytes, Array]:
        import numpy as np

        found: dict[bytes, Array] = {}
        wanted = list(dict.fromkeys(keys))
        try:
            with closing(self._open()) as database:
                for part in _parts(wanted, 500):
                    marks = ",".join("?" * len(part))
                    rows = database.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part)
                    found.update((key, np.frombuffer(vector, np.float32)) for key, vector in rows)
        except (OSError, sqlite3.Error) as e:
            _say_once(self._path, str(e))
        return found

    def write(self, rows: dict[bytes, Array]) -> None:
        try:
            with closing(self._open()) as database, database:
                database.executemany(
                    "INSERT OR IGNORE INTO vectors (key, vector) VALUES (?, ?)",
                    [(key, vector.tobytes()) for key, vector in rows.items()],
                )
                database.execute("DELETE FROM vectors WHERE number <= (SELECT max(number) FROM vectors) - ?", (MOST,))
        except (OSError, sqlite3.Error) as e:
            _say_once(self._path, str(e))

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, timeout=60)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")  # a power cut may take the last vectors, never the file
            database.execute(
                "CREATE TABLE IF NOT EXISTS vectors (number INTEGER PRIMARY KEY, key BLOB UNIQUE, vector BLOB)"
            )
        except sqlite3.Error:
            database.close()
            raise
        return database


def _key(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _parts(items: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    return (items[start : start + size] for start in range(0, len(items), size))


@cache
def _say_once(path: Path, why: str) -> None:
    LOG.warning("embeddings are not kept in %s (set KDAUG_CACHE to a folder that can be written): %s", path, why)


def loaded(encoder: Model) -> SentenceTransformer:
    """The model itself, in the precision that is faster here, and on the GPU where there is one."""
    return _encoder(encoder.path, half_is_faster(pick_device("auto")))


_one_at_a_time = threading.Lock()  # several users share an encoder, and a tokenizer bears one thread at a time


@cache
def _encoder(path: str, half: bool) -> SentenceTransformer:
    """Loaded once in a process; on the GPU where there is one."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # whoever embeds shows a progress of his own
    return SentenceTransformer(
        path, device=pick_device("auto"), model_kwargs={"dtype": torch.bfloat16 if half else torch.float32}
    )
