"""Equal shares of the clusters of a pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.record import Drop, Part
from kdaug.selector import EMPTY, Pool, Selection, check_embedding, check_n, no_score, select_by_group

ROUNDS = 25  # of k-means; FAISS's own default


@dataclass(frozen=True)
class Quota:
    """Sorts the records into `clusters` topics (spherical k-means of their embeddings, by FAISS) and takes as equal a
    number of each as there are, `n` in all: by `score` where one is named, else what is nearest to its center.
    `seed` is that of k-means; `model` and `on` as in `Deita`.

    Leaves out `select:quota` with the cluster, the rank in it, its quota and its size, `select:no_score` and
    `select:empty`.
    """

    name: ClassVar[str] = "quota"
    n: int
    clusters: int = 100
    score: str | None = None
    model: str | None = None
    on: Part = "record"
    seed: int = 0

    def __post_init__(self) -> None:
        check_n(self)
        if self.clusters < 1:
            raise ConfigError(f"quota: clusters is {self.clusters}: it must be at least 1")
        check_embedding(self.model)

    def select(self, pool: Pool) -> Selection:
        import faiss
        import numpy as np

        by_id, _ = pool.ranked(None)
        ranked, scores = pool.ranked(self.score)
        known = set(ranked)
        order = [place for place in by_id if place in known]
        vectors = pool.vectors(self.model, self.on, order)
        there = np.flatnonzero(vectors.any(axis=1))
        vectors, places = vectors[there], [order[row] for row in there.tolist()]
        groups: dict[str, list[int]] = {}
        if places:
            clusters = min(self.clusters, len(places))
            kmeans = faiss.Kmeans(
                vectors.shape[1], clusters, niter=ROUNDS, seed=self.seed, spherical=True, min_points_per_centroid=1
            )
            kmeans.train(vectors)
            cosines, of = kmeans.index.search(vectors, 1)
            value = {place: scores[place] if self.score else float(cosines[row, 0]) for row, place in enumerate(places)}
            for row, place in enumerate(places):
                groups.setdefault(f"{of[row, 0]:04d}", []).append(place)
            for inside in groups.values():
                inside.sort(key=lambda place: (-value[place], pool.ids[place], place))

        def rest(place: int) -> Drop:
            return EMPTY if place in known else no_score(self.score)

        return select_by_group(pool, groups, self.n, "select:quota", rest)
