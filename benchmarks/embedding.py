"""Sentence embeddings with the real all-MiniLM-L6-v2: texts per CPU-second of one thread, and how far they are off.

kdaug         Embedder, nothing known before: bfloat16 where a probe shows it faster, passes of one shape
kdaug again   the same texts from the disk
anchor        sentence-transformers as it comes: float32, batches of 32
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

import resource
import sys
import tempfile
from collections.abc import Callable
from random import Random
from time import process_time
from typing import Any

import numpy as np
from harness import Bound, finish, options, table

from kdaug.device import half_is_faster, pick_device
from kdaug.embedding import Embedder
from kdaug.models import find_encoder
from kdaug.vectors import keep_first

VERBS = ("Write", "Explain", "Summarize", "Translate", "Compare", "List", "Describe", "Invent", "Correct", "Rate")
THINGS = ("a poem", "the idea", "a short story", "three facts", "an email", "a recipe", "the history", "a function")
TOPICS = (
    *("the winter sea", "a sorting algorithm", "the French Revolution", "vegetable soup", "a lost dog", "solar panels"),
    *("chess openings", "the immune system", "a job interview", "tax law in Peru", "jazz", "the moons of Jupiter"),
)
MORE = ("in simple words", "for a child of ten", "with an example of its use", "and say what is uncertain about it", "")


def texts_of(number: int) -> list[str]:
    """Instructions of 5 to some 40 words, some alike: as a pool of generated ones has them."""
    rng = Random(4)

    def one() -> str:
        parts = [f"{rng.choice(VERBS)} {rng.choice(THINGS)} about {rng.choice(TOPICS)} {rng.choice(MORE)}".strip()]
        parts += [f"then {rng.choice(VERBS).lower()} it {rng.choice(MORE)}" for _ in range(rng.choice((0, 0, 0, 1, 3)))]
        return f"{', '.join(parts)} ({rng.randrange(1000)})."

    return [one() for _ in range(number)]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = process_time()
    made = work()
    return process_time() - started, made


def main() -> int:
    given = options(__doc__).parse_args()
    number = 512 if given.quick else 3_000
    texts = texts_of(number)
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(find_encoder().path, device="cpu")
    plain.encode(texts[:64], show_progress_bar=False)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KDAUG_CACHE"] = folder
        Embedder().embed(["loads the model " + "word " * 12 * n for n in range(4)])
        seconds, rows = timed(lambda: Embedder().embed(texts))
        again, same = timed(lambda: Embedder().embed(texts))
    theirs, full = timed(lambda: plain.encode(texts, batch_size=32, show_progress_bar=False, normalize_embeddings=True))
    off = np.abs(rows[:1000] @ rows[:1000].T - full[:1000] @ full[:1000].T)
    flips = int(((keep_first(rows, 0.9) < 0) != (keep_first(np.asarray(full, np.float32), 0.9) < 0)).sum())
    rates = {"kdaug": number / seconds, "kdaug again": number / again, "sentence-transformers": number / theirs}
    print(table(("", "texts per CPU-second"), [(name, f"{rate:,.0f}") for name, rate in rates.items()]))
    print(f"cosines of pairs are off by {off.mean():.5f} in the mean, {off.max():.5f} at most;")
    print(f"dedup at 0.9 decides {flips} of {number:,} records otherwise than with float32 vectors")
    half = half_is_faster(pick_device("auto"))
    figures = {
        "texts": number,
        "bfloat16": half,
        "texts_per_cpu_s": rates,
        "cosine_off_mean": float(off.mean()),
        "cosine_off_max": float(off.max()),
        "decisions_that_differ": flips,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    bounds = [
        Bound("rows that the disk gives otherwise", int((rows != same).any(axis=1).sum()), 0, most=True),
        Bound("again over the first time", rates["kdaug again"] / rates["kdaug"], 10),
        Bound("over sentence-transformers", rates["kdaug"] / rates["sentence-transformers"], 1.8 if half else 0.9),
    ]
    return finish("embedding", given, figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
