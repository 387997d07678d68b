"""Toxic text, by any classifier of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp, isfinite
from typing import ClassVar

from kdaug.errors import ConfigError, require
from kdaug.gate import Gate, Prepared
from kdaug.gates.novelty import On, check_fields, compared
from kdaug.generator import Generate
from kdaug.record import Drop, Record, user
from kdaug.sequence_model import DIGITS, SequenceModel


@dataclass
class Toxicity(Gate):
    """Drops texts to which a text classifier (a folder or Hub id) gives an unwanted label with more than `max`.

    `unwanted` names labels of the model; the likeliest of them counts, and `scores["nontoxic"]` is 1 less its
    probability. `on` says which text, as in `Rouge`. A text that is longer than the model can see is dropped
    (`toxicity:too_long`): nobody looked at its end.
    """

    model: str
    unwanted: Sequence[str] = ("toxic",)
    max: float = 0.5
    on: On = "completion"
    device: str = field(default="auto", metadata={"fingerprint": False})
    _live: SequenceModel | None = field(default=None, init=False, repr=False, compare=False)

    name: ClassVar[str] = "toxicity"

    def __post_init__(self) -> None:
        check_fields(self.name, self.max, self.on)
        for module in ("torch", "transformers"):
            require(module, "local", "the toxicity gate")

    def start(self, seeds: Sequence[Record]) -> Toxicity:
        """Raises ConfigError for a model without these labels."""
        live = replace(self)
        live._live = SequenceModel(self.model, self.device)
        known = live._live.labels
        if not self.unwanted or not set(self.unwanted) <= set(known):
            raise ConfigError(f"toxicity: unwanted must name labels of {self.model}: {', '.join(known)}")
        return live

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        assert self._live is not None, "a gate is started before it is used"
        text = compared(record, self.on)
        if not text.strip():
            return Prepared(record, Drop("toxicity:empty", {"on": self.on}))
        outputs = await self._live(user(text), None)
        if outputs is None or not all(map(isfinite, outputs)):
            return Prepared(record, Drop("toxicity:too_long" if outputs is None else "toxicity:undefined"))
        found = dict(zip(self._live.labels, probabilities(outputs, self._live.several_at_once), strict=True))
        label = max(self.unwanted, key=lambda name: found[name])
        toxic = round(found[label], DIGITS)
        drop = (
            Drop("toxicity:unwanted", {"label": label, "score": toxic, "max": self.max}) if toxic > self.max else None
        )
        return Prepared(record.scored(nontoxic=round(1 - toxic, DIGITS)), drop)


def probabilities(outputs: Sequence[float], several_at_once: bool) -> list[float]:
    """Of logits: each by itself, or all of them 1 together."""
    if several_at_once:
        return [1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x)) for x in outputs]
    most = max(outputs)
    weights = [exp(x - most) for x in outputs]
    return [weight / sum(weights) for weight in weights]
