"""Intervals of measured figures: a share's, and by resampling that of anything else. All are of 95 %."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from statistics import NormalDist
from typing import TypeVar

T = TypeVar("T")
CONFIDENCE = 0.95
RESAMPLES = 1000


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson's interval of a share (J. Am. Stat. Assoc. 22, 1927, p. 209): sound for few cases, and near 0 and 1."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, spread = hits / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(values: Sequence[T], figure: Callable[[Sequence[T]], float], seed: int = 0) -> tuple[float, float]:
    """Efron's percentile bootstrap of a figure of independent cases (Ann. Stat. 7, 1979): for one seed always the
    same."""
    rng = Random(seed)
    found = sorted(figure(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = int((1 - CONFIDENCE) / 2 * RESAMPLES)
    return found[tail], found[-1 - tail]


def bootstrap_ratio(sums: Sequence[float], weights: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """`bootstrap` of sum(sums) / sum(weights), over cases that have one of each: a mean per token over records, say."""
    import numpy as np

    rng, values = np.random.default_rng(seed), np.array([sums, weights], dtype=np.float64)
    drawn = (values[:, rng.integers(0, len(sums), len(sums))].sum(1) for _ in range(RESAMPLES))
    found = sorted(float(above / below) for above, below in drawn)
    tail = int((1 - CONFIDENCE) / 2 * RESAMPLES)
    return found[tail], found[-1 - tail]
