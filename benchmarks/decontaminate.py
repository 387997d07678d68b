"""Decontamination against benchmarks of 100,000 items: what the index takes, and what a record costs.

Synthetic items and records of 20 to 80 words from 20,000 (Zipf), one record in a hundred with 15 words of an item
planted in it. The anchor is a plain Python set of tuples of 13 words, checked to find the same records.
"""

from __future__ import annotations

import resource
import sys
import time
from random import Random

import numpy as np
from harness import Bound, finish, options

from kdaug.overlap import Overlaps
from kdaug.words import words


def texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(f"w{w % 20_000}" for w in rng.zipf(1.2, size).tolist())
        for size in rng.integers(20, 81, count).tolist()
    ]


def planted(records: list[str], items: list[str]) -> list[str]:
    rng = Random(0)
    for at in range(0, len(records), 100):
        said = words(rng.choice(items))
        start = rng.randrange(len(said) - 15)
        records[at] += " " + " ".join(said[start : start + 15])
    return records


def peak() -> float:
    """MiB of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def runs(said: list[str], n: int = 13) -> list[tuple[str, ...]]:
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]


def measure(count: int, asked: int) -> dict[str, float]:
    items = texts(count, 1)
    records = planted(texts(asked, 2), items)
    before, started = peak(), time.process_time()
    overlaps = Overlaps([items], 13, 8)
    built, grown, started = time.process_time() - started, peak() - before, time.process_time()
    found = [overlaps.find(record) is not None for record in records]
    took, before, started = time.process_time() - started, peak(), time.process_time()
    grams = {run for item in items for run in runs(words(item))}
    built_set, grown_set, started = time.process_time() - started, peak() - before, time.process_time()
    expected = [any(run in grams for run in runs(words(record))) for record in records]
    took_set = time.process_time() - started
    return {
        "items": count,
        "records": asked,
        "dropped": sum(found),
        "differing": sum(a != b for a, b in zip(found, expected, strict=True)),
        "index_seconds": round(built, 2),
        "index_mib": round(grown),
        "records_per_cpu_second": round(asked / took),
        "set_index_seconds": round(built_set, 2),
        "set_mib_at_least": round(grown_set),
        "set_records_per_cpu_second": round(asked / took_set),
    }


def main() -> int:
    given = options(__doc__).parse_args()
    figures = measure(*((10_000, 2_000) if given.quick else (100_000, 10_000)))
    for name, figure in figures.items():
        print(f"{name}: {figure:,}")
    rate = figures["records_per_cpu_second"]
    bounds = [
        Bound("decisions unlike a set's", figures["differing"], 0, most=True),
        Bound("index memory over a set's", figures["index_mib"] / max(1, figures["set_mib_at_least"]), 0.5, most=True),
        Bound("records per CPU-second", rate, 2_000),
    ]
    return finish("decontaminate", given, figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
