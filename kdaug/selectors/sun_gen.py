"""SunGen's selection: the records whose labels a noise-robust loss believes (arXiv 2205.12679, §3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdaug.embedding import Step, nothing
from kdaug.errors import ConfigError
from kdaug.record import Drop, text_of
from kdaug.selector import EMPTY, Pool, Selection, check_embedding, check_n

if TYPE_CHECKING:
    from kdaug.selector import Array


@dataclass(frozen=True)
class SunGen:
    """Learns a weight from 0 to 1 for each record and keeps the `n` heaviest; equal ones go by id.

    The label is the completion, the text the prompt's embedding. For `steps` steps a linear classifier is trained on
    the weighted data, and the weights are moved against the gradient of the reverse cross-entropy of all data, which
    hardly listens to records that the classifier does not believe, through one step of that training.

    Leaves out `select:weight` with weight and rank, and `select:empty`. Raises ConfigError where there is one label
    only.
    """

    name: ClassVar[str] = "sun_gen"
    n: int
    steps: int = 50
    rate: float = 1.0  # of the classifier, as its weights' scale is that of unit vectors
    weight_rate: float = 1.0  # of the weights; the gradient is scaled to have 1 as its largest
    model: str | None = None

    def __post_init__(self) -> None:
        check_n(self)
        if self.steps < 1 or self.rate <= 0 or self.weight_rate <= 0:
            raise ConfigError("sun_gen: steps, rate and weight_rate are more than 0")
        check_embedding(self.model)

    def select(self, pool: Pool) -> Selection:
        import numpy as np

        order = sorted(range(len(pool.ids)), key=lambda place: pool.ids[place])
        labels = [text_of(record.completion).strip().casefold() for record in pool.records()]
        vectors = pool.vectors(self.model, "prompt", order)
        rows = [row for row, place in enumerate(order) if labels[place] and vectors[row].any()]
        names = sorted({labels[order[row]] for row in rows})
        if len(names) < 2:
            raise ConfigError(f"select: sun_gen needs two labels at least, and all records have {names}: change select")
        targets = np.array([names.index(labels[order[row]]) for row in rows])
        weights = self.weights(vectors[rows], targets, pool.step)
        ranked = sorted(range(len(rows)), key=lambda i: (-weights[i], pool.ids[order[rows[i]]]))
        rank = {order[rows[i]]: (at, float(weights[i])) for at, i in enumerate(ranked, 1)}

        def why(place: int) -> Drop:
            if place not in rank:
                return EMPTY
            return Drop("select:weight", {"rank": rank[place][0], "weight": round(rank[place][1], 6)})

        return Selection([order[rows[i]] for i in ranked[: self.n]], why)

    def weights(self, vectors: Array, targets: Array, step: Step = nothing) -> Array:
        """Of each row of `vectors` [rows, dimensions] with the class in `targets` [rows]."""
        import numpy as np

        features = np.hstack([vectors, np.ones((len(vectors), 1))]).astype(np.float64)
        wanted = np.eye(int(targets.max()) + 1)[targets]
        weights, theta = np.ones(len(features)), np.zeros((features.shape[1], wanted.shape[1]))
        for _ in range(self.steps):
            step()
            # Inner: one step of weighted cross-entropy, whose gradient of record i is x_i (p_i - y_i).
            errors = _softmax(features @ theta) - wanted
            theta = theta - self.rate * features.T @ (weights[:, None] * errors) / weights.sum()
            # Outer: the reverse cross-entropy is A (1 - p_i[y_i]), so its gradient weighs record i by p_i[y_i].
            p = _softmax(features @ theta)
            believed = (p * wanted).sum(1, keepdims=True)
            outer = features.T @ (believed * (p - wanted)) / len(features)
            # d outer / d w_i = - rate * <gradient of i, outer>, through that one step.
            gain = ((features @ outer) * errors).sum(1)
            scale = np.abs(gain).max() or 1.0
            weights = np.clip(weights + self.weight_rate * gain / scale / self.steps * 2, 1e-6, 1.0)
        found: Array = weights
        return found


def _softmax(logits: Array) -> Array:
    import numpy as np

    shifted: Array = np.exp(logits - logits.max(1, keepdims=True))
    shares: Array = shifted / shifted.sum(1, keepdims=True)
    return shares
