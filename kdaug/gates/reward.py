"""Rewards of answers, by any reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import ClassVar

from kdaug.errors import ConfigError, require
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.record import Drop, Record
from kdaug.sequence_model import DIGITS, SequenceModel


@dataclass
class Reward(Gate):
    """Scores answers with a reward model: a sequence-classification checkpoint with one output (a folder or Hub id).

    `scores["reward"]` is that output, on the model's own scale; of a preference `scores["reward_margin"]` is how much
    more the chosen answer has than the rejected one. Below `min`, or a margin below `min_margin`, a record is dropped
    (`reward:low`, `reward:margin`); so is what has no answer (`reward:no_answer`) or more tokens than the model can see
    (`reward:too_long`). The conversation is written in the model's own chat template where it has one, else prompt and
    answer are a pair of texts. A model of one output that marks quality (an "educational value") works as well.
    """

    model: str
    min: float | None = None
    min_margin: float | None = None
    device: str = field(default="auto", metadata={"fingerprint": False})
    _live: SequenceModel | None = field(default=None, init=False, repr=False, compare=False)

    name: ClassVar[str] = "reward"

    def __post_init__(self) -> None:
        for module in ("torch", "transformers"):
            require(module, "local", "the reward gate")

    def start(self, seeds: Sequence[Record]) -> Reward:
        """Raises ConfigError for what is no reward model."""
        live = replace(self)
        live._live = SequenceModel(self.model, self.device)
        if len(labels := live._live.labels) != 1:
            raise ConfigError(
                f"reward: {self.model} has {len(labels)} outputs, a reward model has one (for labels: toxicity)"
            )
        return live

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        assert self._live is not None, "a gate is started before it is used"
        rewards = []
        for answer in (record.completion, record.rejected):
            if answer is None:
                continue
            outputs = await self._live(record.prompt, answer)
            if outputs is None or not isfinite(outputs[0]):
                return Prepared(record, Drop("reward:too_long" if outputs is None else "reward:undefined"))
            rewards.append(round(outputs[0], DIGITS))
        if not rewards:
            return Prepared(record, Drop("reward:no_answer"))
        scores = {"reward": rewards[0]}
        if len(rewards) == 2:
            scores["reward_margin"] = round(rewards[0] - rewards[1], DIGITS)
        return Prepared(record.scored(**scores))

    def decide(self, prepared: Prepared) -> Drop | None:
        if drop := super().decide(prepared):
            return drop
        scores = prepared.record.scores
        if self.min is not None and scores["reward"] < self.min:
            return Drop("reward:low", {"score": scores["reward"], "min": self.min})
        margin = scores.get("reward_margin")
        if self.min_margin is not None and margin is not None and margin < self.min_margin:
            return Drop("reward:margin", {"margin": margin, "min_margin": self.min_margin})
        return None
