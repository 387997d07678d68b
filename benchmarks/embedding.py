"""Sentence embeddings with the real all-MiniLM-L6-v2: texts per CPU-second of one thread, and how far they are off.

kdaug         Embedder, nothing known before: bfloat16 where a probe shows it faster, passes of one shape
kdaug again   the same texts from the disk
anchor        sentence-transformers as it comes: float32, batches of 32
sieve         dedup's static model, distilled here, on sentences of the standard library's docstrings with near-copies:
              its texts per CPU-second, how many texts need the encoder all the same, and the share of duplicates found
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

import ast
import asyncio
import re
import resource
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import numpy as np
from harness import Bound, finish, options, table

import kdaug as kd
from kdaug.device import half_is_faster, pick_device
from kdaug.embedding import Embedder
from kdaug.models import find_encoder
from kdaug.static_embedding import StaticEmbedder
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


def sentences(number: int) -> list[str]:
    """First sentences of the standard library's docstrings, each once; every fifth an earlier one with a word less."""
    found: dict[str, None] = {}
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and (said := ast.get_docstring(node)):
                first = re.split(r"(?<=[.!?])\s|\n\n", said)[0]
                if 5 <= len(first.split()) <= 40:
                    found[" ".join(first.split())] = None
    rng, texts = Random(1), list[str]()
    for sentence in list(found)[: number * 4 // 5]:
        texts.append(sentence)
        if len(texts) % 5 == 4:
            words = rng.choice(texts).split()
            del words[rng.randrange(len(words))]
            texts.append(" ".join(words))
    return texts


async def kept(gate: kd.Gate, texts: list[str]) -> list[bool]:
    """What a gate keeps, with 1,024 texts at a time in flight."""
    made, nobody = list[bool](), None
    for start in range(0, len(texts), 1024):
        records = [kd.Record(prompt=kd.user(text)) for text in texts[start : start + 1024]]
        for prepared in await asyncio.gather(*(gate.prepare(r, nobody) for r in records)):  # type: ignore[arg-type]
            made.append(gate.decide(prepared) is None)
            if made[-1]:
                gate.remember(prepared)
    return made


def sifted(texts: list[str]) -> dict[str, float]:
    """The dedup gate behind its sieve, beside the gate alone."""
    static = StaticEmbedder(find_encoder())
    distilling, _ = timed(lambda: static.rows(texts[:1]))
    seconds, _ = timed(lambda: static.rows(texts))
    gate = kd.Dedup(sieve=0.75).start([])
    behind, sieved = timed(lambda: asyncio.run(kept(gate, texts)))
    asked = len(gate._real)
    told = gate.report()
    with tempfile.TemporaryDirectory() as folder:  # without the vectors that the sieved gate has kept on the disk
        os.environ["KDAUG_CACHE"] = folder
        alone, exact = timed(lambda: asyncio.run(kept(kd.Dedup().start([]), texts)))
    drops = exact.count(False)
    return {
        "texts": len(texts),
        "distilled_in_cpu_s": distilling,
        "static_texts_per_cpu_s": len(texts) / seconds,
        "gate_texts_per_cpu_s": len(texts) / behind,
        "gate_alone_texts_per_cpu_s": len(texts) / alone,
        "encoder_asked_for": asked / len(texts),
        "duplicates": drops,
        "recall": sum(not a and not b for a, b in zip(sieved, exact, strict=True)) / drops,
        "wrong": sum(not a and b for a, b in zip(sieved, exact, strict=True)),
        "recall_as_reported": float(str(told.get("recall", 1.0))),
    }


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
        sieve = sifted(sentences(800 if given.quick else 4_000))
    theirs, full = timed(lambda: plain.encode(texts, batch_size=32, show_progress_bar=False, normalize_embeddings=True))
    off = np.abs(rows[:1000] @ rows[:1000].T - full[:1000] @ full[:1000].T)
    flips = int(((keep_first(rows, 0.9) < 0) != (keep_first(np.asarray(full, np.float32), 0.9) < 0)).sum())
    rates = {"kdaug": number / seconds, "kdaug again": number / again, "sentence-transformers": number / theirs}
    print(table(("", "texts per CPU-second"), [(name, f"{rate:,.0f}") for name, rate in rates.items()]))
    print(f"cosines of pairs are off by {off.mean():.5f} in the mean, {off.max():.5f} at most;")
    print(f"dedup at 0.9 decides {flips} of {number:,} records otherwise than with float32 vectors")
    print(
        f"behind the sieve, {sieve['texts']:,.0f} sentences: {sieve['gate_texts_per_cpu_s']:,.0f} a CPU-second "
        f"(dedup alone {sieve['gate_alone_texts_per_cpu_s']:,.0f}, static model "
        f"{sieve['static_texts_per_cpu_s']:,.0f}), the encoder for {sieve['encoder_asked_for']:.0%}, "
        f"recall {sieve['recall']:.4f} of {sieve['duplicates']:,.0f} "
        f"(reported {sieve['recall_as_reported']:.4f}), wrong {sieve['wrong']:.0f}"
    )
    half = half_is_faster(pick_device("auto"))
    figures = {
        "texts": number,
        "bfloat16": half,
        "texts_per_cpu_s": rates,
        "cosine_off_mean": float(off.mean()),
        "cosine_off_max": float(off.max()),
        "decisions_that_differ": flips,
        "sieve": sieve,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    bounds = [
        Bound("rows that the disk gives otherwise", int((rows != same).any(axis=1).sum()), 0, most=True),
        Bound("recall behind the sieve", sieve["recall"], 0.95),
        Bound(
            "behind the sieve over dedup alone", sieve["gate_texts_per_cpu_s"] / sieve["gate_alone_texts_per_cpu_s"], 1
        ),
        Bound("again over the first time", rates["kdaug again"] / rates["kdaug"], 10),
        Bound("over sentence-transformers", rates["kdaug"] / rates["sentence-transformers"], 1.8 if half else 0.9),
    ]
    return finish("embedding", given, figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
