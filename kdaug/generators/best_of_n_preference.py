"""Best of n: several samples of one prompt, scored; the best and the worst are a preference, or the best an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, nan
from random import Random
from typing import TYPE_CHECKING, ClassVar, Literal

from kdaug.errors import ConfigError, require
from kdaug.generator import Generate, settled
from kdaug.judging import Verdict, mark, rescaled
from kdaug.pairs import HOW, How, PairBuilder, paired
from kdaug.prompts import converse
from kdaug.record import Discarded, Drop, Record, text_of
from kdaug.samples import answered, marked, sampled
from kdaug.teacher import Completion

if TYPE_CHECKING:
    from kdaug.sequence_model import SequenceModel

LOW, HIGH = 1, 10  # of the direct mark


@dataclass(frozen=True)
class BestOfN:
    """Samples a prompt `samples` times and scores each: the pairs are `how` says (`PairBuilder` has the rules), with
    `scores["best_of_n"]` and `scores["margin"]`; with `keep="best"` the best sample alone is kept (rejection sampling).

    `scorer="judge"`: the mean of `judgements` marks from 1 to 5. `"direct"`: the expected mark from 1 to 10, from the
    judge's probabilities, on [-1, 1] (direct RLAIF, arXiv 2309.00267, §2.2.2). `"reward"`: the reward model `model`, a
    folder or Hub id. What gets no score is discarded (`best_of_n_preference:unscored`).
    """

    samples: int = 5  # Magpie (arXiv 2406.08464), SimPO (arXiv 2405.14734): 5 at 0.8
    scorer: Literal["judge", "direct", "reward"] = "judge"
    judgements: int = 1
    model: str = ""
    keep: Literal["pair", "best"] = "pair"
    how: How = "best_worst"
    min_margin: float = 0.0
    max_length_ratio: float | None = None
    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int = 1024
    role: str = "student"
    device: str = field(default="auto", metadata={"fingerprint": False})

    name: ClassVar[str] = "best_of_n_preference"

    def __post_init__(self) -> None:
        if self.samples < 2 or self.judgements < 1:
            raise ConfigError("best_of_n_preference: samples is at least 2, judgements at least 1")
        if self.scorer not in ("judge", "direct", "reward") or self.keep not in ("pair", "best") or self.how not in HOW:
            raise ConfigError(
                "best_of_n_preference: scorer is judge, direct or reward; keep is pair or best; "
                f"how is one of {', '.join(HOW)}"
            )
        if bool(self.model) != (self.scorer == "reward"):
            raise ConfigError('best_of_n_preference: scorer="reward" needs `model`, and only it')
        if self.model:
            for module in ("torch", "transformers"):
                require(module, "local", "a reward model")
        _ = self._builder

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role, *self.judges)

    @property
    def judges(self) -> tuple[str, ...]:
        """The roles whose judgement decides what is kept."""
        return () if self.scorer == "reward" else ("judge",)

    @property
    def renders(self) -> tuple[str, ...]:
        return {"judge": ("judge/grade",), "direct": ("judge/mark",), "reward": ()}[self.scorer]

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        calls = [
            generate(
                record.prompt,
                role=self.role,
                temperature=self.temperature,
                top_p=self.top_p,
                max_tokens=self.max_tokens,
            )
            for _ in range(self.samples)
        ]
        usable, made = await sampled(record, calls, by=self.name)
        replies, scores, unscored = await self._scored(record, usable, generate)
        out: list[Record | Discarded] = [*made, *unscored]
        if self.keep == "pair":
            return [*out, *paired(record, replies, scores, self._builder, rng, by=self.name, score="best_of_n")]
        best = max(scores, default=nan)
        for place, (reply, score) in enumerate(zip(replies, scores, strict=True)):
            child = answered(record, reply, by=self.name).scored(best_of_n=score)
            lower = Drop(f"{self.name}:not_best", {"best": best})
            out.append(child if place == scores.index(best) else Discarded(child, lower))
        return out

    async def _scored(
        self, record: Record, replies: Sequence[Completion], generate: Generate
    ) -> tuple[list[Completion], list[float], list[Discarded]]:
        """The replies that have a score, their scores, and the others."""
        if self.scorer == "judge":
            how = {"judgements": self.judgements, "max_tokens": self.max_tokens}
            return await marked(record, replies, generate, by=self.name, **how)
        samples = [answered(record, reply, by=self.name) for reply in replies]
        if self.scorer == "reward":
            outputs = [await self._model(sample.prompt, sample.completion) for sample in samples]
            scores = [nan if output is None else round(output[0], 4) for output in outputs]
        else:
            verdicts = await settled([self._direct(sample, generate) for sample in samples])
            scores = [rescaled(one.score, LOW, HIGH) if isinstance(one, Verdict) else nan for one in verdicts]
        known = [place for place, score in enumerate(scores) if isfinite(score)]
        left = Drop(f"{self.name}:unscored", {"scorer": self.scorer})
        others = [Discarded(sample, left) for place, sample in enumerate(samples) if place not in known]
        return [replies[place] for place in known], [scores[place] for place in known], others

    async def _direct(self, sample: Record, generate: Generate) -> Verdict:
        told = {"prompt": text_of(sample.prompt), "response": text_of(sample.completion)}
        question = converse("judge/mark", rubric="", low=LOW, high=HIGH, **told)
        return await mark(question, generate, low=LOW, high=HIGH)

    @property
    def _builder(self) -> PairBuilder:
        return PairBuilder(self.how, self.min_margin, self.max_length_ratio)

    @cached_property
    def _model(self) -> SequenceModel:
        from kdaug.sequence_model import SequenceModel

        model = SequenceModel(self.model, self.device)
        if len(model.labels) != 1:
            raise ConfigError(f"best_of_n_preference: {self.model} has {len(model.labels)} outputs, a reward model one")
        return model
