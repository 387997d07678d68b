"""Instruction-following difficulty: how much of an answer its request gives away, by a white-box model."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite
from typing import ClassVar, Literal

from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.record import Drop, Messages, Record, user

DIGITS = 6  # of a score: what a batch does to the last bits of a float is no difference between records


@dataclass(frozen=True)
class Ifd(Gate):
    """Scores how little the request helps a model with the answer, and drops what it does not help with at all.

    With L(a|q) the mean negative log-likelihood of the answer's tokens after the request, and L(a) after an empty one:
    `scores["ifd_loss"]` = L(a|q) / L(a) (Cherry LLM, arXiv 2308.12032, §2.2) and `scores["ifd_ppl"]` = exp(L(a|q) -
    L(a)), the ratio of perplexities (Superfiltering, arXiv 2402.00530, §2.1). The two order data differently; `by` says
    which one `min` and `max` are of. Above `max` = 1 the request makes the answer less likely: they do not belong
    together. Both papers train on the top 5 to 10 %: that is for a selection from the scored dataset.

    The model is that of `role`, a white-box teacher: the student (Cherry), or with a role of its own a small one that
    stands for it (Superfiltering: GPT-2), such as `roles: {scorer: local}`. An empty request is a user's turn without
    text, under the same system message. The end of the answer's turn counts as a token, as it does in training.

    Drops `ifd:above`, `ifd:low`, `ifd:no_answer`, and `ifd:undefined` where a likelihood is 0 or 1. A record costs two
    passes of the model; more tokens than it can see drop the record (`teacher:context_too_long`).
    """

    min: float | None = None
    max: float | None = 1.0
    by: Literal["loss", "ppl"] = "loss"
    role: str = "student"

    name: ClassVar[str] = "ifd"

    def __post_init__(self) -> None:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ConfigError(f"ifd: min {self.min:g} is more than max {self.max:g}")
        if self.by not in ("loss", "ppl"):
            raise ConfigError(f'ifd: by must be "loss" or "ppl", not {self.by!r}')

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override] # what it asks depends on its fields
        return (self.role,)

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        if record.completion is None:
            return Prepared(record, Drop("ifd:no_answer"))
        system = tuple(m for m in record.prompt if m.role == "system")
        given = await self._loss(record.prompt, record.completion, generate)
        alone = await self._loss((*system, *user("")), record.completion, generate)
        if not (isfinite(given) and isfinite(alone) and alone > 0):
            return Prepared(record, Drop("ifd:undefined", {"given": str(given), "alone": str(alone)}))
        return Prepared(record.scored(**scores(given, alone)))

    def decide(self, prepared: Prepared) -> Drop | None:
        if drop := super().decide(prepared):
            return drop
        score = prepared.record.scores[f"ifd_{self.by}"]
        if self.max is not None and score > self.max:
            return Drop("ifd:above", {"score": score, "max": self.max, "by": self.by})
        if self.min is not None and score < self.min:
            return Drop("ifd:low", {"score": score, "min": self.min, "by": self.by})
        return None

    async def _loss(self, prompt: Messages, completion: Messages, generate: Generate) -> float:
        """The mean negative log-likelihood of a token, in nats."""
        view = await generate.logprobs(prompt, completion, role=self.role)
        return -float(view.token_logprobs.mean(dtype="float64"))


def scores(given: float, alone: float) -> dict[str, float]:
    """Both, from the mean losses of the answer with its request and without."""
    return {"ifd_loss": round(given / alone, DIGITS), "ifd_ppl": round(exp(given - alone), DIGITS)}
