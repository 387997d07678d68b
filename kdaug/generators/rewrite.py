"""Rewriting: paraphrase, back-translation and counterfactual, each held to three checks (the survey's building blocks,
arXiv 2402.13116, §3.1.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal

from kdaug.embedding import Embedder
from kdaug.errors import ConfigError, ParseError, TeacherError
from kdaug.generator import Generate, settled
from kdaug.judging import grade
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user
from kdaug.teacher import Completion
from kdaug.words import rouge_l, words

OPERATORS = ("paraphrase", "back_translation", "counterfactual")


@dataclass(frozen=True)
class Rewrite:
    """Rewrites a record's last turn by each of `operators`; the rest of it stays, its label (the completion) too.

    `paraphrase` says the same in other words, `back_translation` goes through one of `languages`, `counterfactual`
    changes as little as is needed for another of `labels` to be right, which is then the completion. Every rewrite is
    checked: it is no copy (ROUGE-L with the original at most `ceiling`, `rewrite:copy`); its meaning is kept, by
    `meaning`: the judge's mark is at least `min_mark`, or the cosine of the embeddings at least `floor`
    (`rewrite:meaning`); and, where `labels` are given, the judge puts the label on it that it should have
    (`rewrite:label`). A counterfactual has to be near its original all the same, as it changes little.

    The thresholds are yours: no value is canonical.
    """

    operators: tuple[str, ...] = ("paraphrase", "back_translation")
    labels: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("French", "German", "Spanish")
    ceiling: float = 0.7
    meaning: Literal["judge", "embedding"] = "judge"
    min_mark: float = 3.0
    floor: float = 0.6
    temperature: float = 0.9
    max_tokens: int = 1024

    name: ClassVar[str] = "rewrite"
    roles: ClassVar[tuple[str, ...]] = ("teacher", "judge")

    def __post_init__(self) -> None:
        if not self.operators or set(self.operators) - {*OPERATORS}:
            raise ConfigError(f"rewrite: operators must be of {', '.join(OPERATORS)}, not {self.operators}")
        if "counterfactual" in self.operators and len(self.labels) < 2:
            raise ConfigError("rewrite: a counterfactual needs labels, at least two")
        if "back_translation" in self.operators and not self.languages:
            raise ConfigError("rewrite: back_translation needs languages")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        label = text_of(record.completion).strip()
        if self.labels and label not in self.labels:
            return [Discarded(record, Drop("rewrite:unknown_label", {"label": label}))]
        wanted = rng.choice([other for other in self.labels if other != label]) if len(self.labels) > 1 else label
        language = rng.choice(self.languages) if self.languages else ""
        results = await settled(
            [
                self._rewritten(
                    record,
                    operator,
                    wanted if operator == "counterfactual" else label,
                    language,
                    generate.branch(operator),
                )
                for operator in self.operators
            ]
        )
        made: list[Record | Discarded] = []
        for operator, result in zip(self.operators, results, strict=True):
            if isinstance(result, TeacherError | ParseError):
                made.append(Discarded(record, Drop(result.reason, {"operator": operator, "error": str(result)})))
            else:
                made.append(result)
        return made

    async def _rewritten(
        self, record: Record, operator: str, label: str, language: str, generate: Generate
    ) -> Record | Discarded:
        given = record.prompt[-1].content
        replies = [await self._ask(generate, operator, text=given, label=label, language=language)]
        if operator == "back_translation" and not replies[0].cut:
            replies.append(
                await self._ask(generate, "back", text=replies[0].text.strip(), label=label, language=language)
            )
        text = replies[-1].text.strip()
        child = record.child(
            by=f"{self.name}/{operator}",
            replies=replies,
            prompt=(*record.prompt[:-1], *user(text)),
            completion=assistant(label) if operator == "counterfactual" else record.completion,
            meta={name: value for name, value in record.meta.items() if name not in ("instruction", "input")},
        )
        if any(reply.cut for reply in replies) or not text:
            return Discarded(child, Drop("rewrite:cut" if text else "rewrite:empty"))
        drop = self._copied(text, given) or await self._strayed(operator, text, given, generate)
        drop = drop or (await self._mislabelled(text, label, generate) if self.labels else None)
        return Discarded(child, drop) if drop else child

    async def _ask(self, generate: Generate, template: str, **values: str) -> Completion:
        asked = render(f"{self.name}/{template}", **values)
        return await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)

    def _copied(self, text: str, given: str) -> Drop | None:
        alike = 1.0 if text == given else rouge_l(words(text), words(given))
        return Drop("rewrite:copy", {"rouge_l": round(alike, 3)}) if alike > self.ceiling else None

    async def _strayed(self, operator: str, text: str, given: str, generate: Generate) -> Drop | None:
        """Whether it means something else."""
        if self.meaning == "embedding":
            vectors = await asyncio.to_thread(Embedder().embed, [given, text])
            cosine = float(vectors[0] @ vectors[1])
            return Drop("rewrite:meaning", {"cosine": round(cosine, 4)}) if cosine < self.floor else None
        pair = Record(prompt=user(given), completion=assistant(text))
        rubric = render(f"{self.name}/meaning", flipped=operator == "counterfactual")
        verdict = await grade(pair, generate, rubric=rubric, max_tokens=self.max_tokens)
        low = verdict.score < self.min_mark
        return Drop("rewrite:meaning", {"score": verdict.score, "rationale": verdict.rationale}) if low else None

    async def _mislabelled(self, text: str, label: str, generate: Generate) -> Drop | None:
        asked = render(f"{self.name}/label", text=text, labels=self.labels)
        said = await generate(
            asked, role="judge", schema=list(self.labels), temperature=0.0, max_tokens=self.max_tokens
        )
        return Drop("rewrite:label", {"wanted": label, "found": said.text}) if said.text != label else None
