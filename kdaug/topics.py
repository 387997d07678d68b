"""How varied a set of texts is, by its embeddings: the Vendi score, clusters with names, and a map in two dimensions.

Embeddings are float32 [texts, dimensions] with rows of length 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from kdaug.gates.languages import LANGUAGES

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_SMALL = frozenset().union(*(known.small_words for known in LANGUAGES.values()))
_ASKING = (
    "write give make create list explain describe find what how why who when where which following using use would "
    "could should about some there if will may might must was were been has had did does do so no its his her him she "
    "he we us me my our into out up only any more most very one two three between provide name tell please than "
    "your all can get see own new good best like made these those then them each every both such other another just"
)
_COMMON = _SMALL.union(_ASKING.split())


def vendi_score(embeddings: Array) -> float | None:
    """The effective number of different texts: exp of the entropy of the eigenvalues of K / n, K the cosines of all
    pairs (Friedman & Dieng 2022, arXiv 2210.02410, definition 3.1). From 1 (all alike) to n; None for no text.

    K / n has the eigenvalues of the covariance [dimensions, dimensions], which is what is decomposed here.
    """
    import numpy as np

    if len(embeddings) == 0:
        return None
    rows: Array = embeddings.astype(np.float64)
    small = rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T
    values = np.linalg.eigvalsh(small / len(rows))
    values = values[values > 1e-12]
    return float(np.exp(-np.sum(values * np.log(values))))


def flat_map(embeddings: Array) -> Array:
    """The two directions of largest variance (PCA): float64 [texts, 2]. Deterministic, signs included."""
    import numpy as np

    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    two = directions[:, ::-1][:, :2]
    two = two * np.sign(two[np.abs(two).argmax(axis=0), range(two.shape[1])])
    found: Array = centred @ two
    return found


def clusters(embeddings: Array, seed: int) -> Array:
    """The cluster of every text, the largest is 0: int [texts]. Spherical k-means with FAISS, 3 to 12 clusters."""
    import faiss
    import numpy as np

    rows = np.ascontiguousarray(embeddings, dtype=np.float32)
    k = max(1, min(12, round(math.sqrt(len(rows) / 8)), len(np.unique(rows, axis=0))))
    # Points as they are, however few: FAISS would warn below 39 a cluster, and subsample above 256.
    means = faiss.Kmeans(
        rows.shape[1], k, niter=25, nredo=3, seed=seed, spherical=True,
        min_points_per_centroid=1, max_points_per_centroid=len(rows),
    )  # fmt: skip
    means.train(rows)
    _, found = means.index.search(rows, 1)
    sizes = np.bincount(found[:, 0], minlength=k)
    rank: Array = np.empty(k, dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(k)
    numbers: Array = rank[found[:, 0]]
    return numbers


def names(texts: Sequence[Sequence[str]], cluster_of: Sequence[int], count: int = 3) -> list[str]:
    """A name for every cluster: its words of highest c-TF-IDF, tf · log(1 + A / f), with tf the word's frequency in
    the cluster, f in all of them, A the mean number of words a cluster (Grootendorst 2022, arXiv 2203.05794, §3.3).

    A word counts once a text, and the common small words of 18 languages do not; a word of one text alone names no
    cluster of several.
    """
    size = max(cluster_of, default=-1) + 1
    within = [Counter[str]() for _ in range(size)]
    members = Counter(cluster_of)
    for tokens, cluster in zip(texts, cluster_of, strict=True):
        within[cluster].update(
            {t for t in tokens if t not in _COMMON and not t.isdigit() and (len(t) > 2 or not t.isascii())}
        )
    overall = sum(within, Counter[str]())
    mean = overall.total() / max(1, size)
    found = []
    for cluster, counts in enumerate(within):
        least = 2 if members[cluster] > 2 else 1
        score = {w: n * math.log(1 + mean / overall[w]) for w, n in counts.items() if n >= least}
        best = sorted(score, key=lambda w: (-score[w], w))[:count]
        found.append(", ".join(best) or f"mixed {cluster + 1}")
    return found


def _may_name(word: str) -> bool:
    return not word.isdigit() and (len(word) > 2 or not word.isascii())
