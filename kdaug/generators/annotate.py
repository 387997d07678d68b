"""Annotation: labels for given texts by a schema, agreed upon by several samples (after AnnoLLM, arXiv 2303.16854)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import orjson

from kdaug.errors import ConfigError
from kdaug.generator import Generate, settled
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Json, Record, assistant, text_of, user
from kdaug.samples import answered
from kdaug.teacher import Completion
from kdaug.voting import Vote, majority

UNSURE = "unsure"


@dataclass(frozen=True)
class Annotate:
    """Labels the text of a record's prompt: `samples` replies, explanation first, and what most of them say.

    `labels` are the classes, or `schema` is a JSON schema of an object whose fields are voted on one by one. Below
    `min_agreement` of the samples (in any field), or where two labels have equally many votes, the annotator abstains:
    the record is discarded as `annotate:abstained`, with the votes. A sample may say "unsure", which is no vote and
    lowers the agreement, as one does that failed. `scores["agreement"]` is the least agreement of a field.

    The new prompt is the guideline, the labels and the text; the completion is the label alone (JSON for a schema).
    """

    labels: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None  # Any: a JSON schema
    guideline: str = ""
    samples: int = 5
    min_agreement: float = 0.6
    explain: bool = True
    unsure: bool = True
    temperature: float = 0.7
    max_tokens: int = 512
    role: str = "teacher"

    name: ClassVar[str] = "annotate"

    def __post_init__(self) -> None:
        if bool(self.labels) == (self.schema is not None):
            raise ConfigError("annotate: give `labels` (a list of classes) or `schema` (a JSON schema), one of the two")
        if self.schema is not None and not self.schema.get("properties"):
            raise ConfigError("annotate: schema must describe an object with properties: they are what is voted on")
        if len(set(self.labels)) < len(self.labels) or len(self.labels) == 1 or UNSURE in self.labels:
            raise ConfigError(f'annotate: labels are two different words or more, none of them "{UNSURE}"')
        if self.samples < 1 or not 0 <= self.min_agreement <= 1:
            raise ConfigError("annotate: samples is at least 1, min_agreement from 0 to 1")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        text = text_of(tuple(m for m in record.prompt if m.role != "system"))
        task = render(f"{self.name}/task", text=text, guideline=self.guideline, labels=self.labels)
        unsure = UNSURE if self.unsure and self.labels else ""
        asked = render(f"{self.name}/ask", task=task, explain=self.explain, unsure=unsure)
        replies = await settled([self._ask(asked, generate) for _ in range(self.samples)])
        given = [reply for reply in replies if isinstance(reply, Completion)]
        if not given:
            raise next(failure for failure in replies if not isinstance(failure, Completion))
        told = [self._label(reply) for reply in given]
        ballots: list[dict[str, str]] = [*told, *({} for _ in range(self.samples - len(given)))]
        votes = {field: majority([one.get(field) for one in ballots]) for field in self._fields}
        label = {field: orjson.loads(vote.winner) for field, vote in votes.items() if vote is not None}
        answer = label.get("", UNSURE) if self.labels else orjson.dumps(label).decode()
        child = answered(record, given[0], by=self.name, replies=given, prompt=user(task), completion=assistant(answer))
        agreement = min(vote.confidence if vote else 0.0 for vote in votes.values())
        if agreement < self.min_agreement or any(vote is None or vote.tied for vote in votes.values()):
            return [Discarded(child, Drop("annotate:abstained", self._evidence(ballots, votes, agreement)))]
        return [child.scored(agreement=agreement)]

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(self.schema["properties"]) if self.schema is not None else ("",)

    @property
    def _form(self) -> Any:
        label: Any = self.schema
        if self.schema is None:
            label = [*self.labels, *([UNSURE] if self.unsure else [])]
        if not self.explain:
            return label
        label = {"enum": label} if isinstance(label, list) else label
        return {
            "type": "object",
            "properties": {"explanation": {"type": "string"}, "label": label},
            "required": ["explanation", "label"],
        }

    async def _ask(self, asked: str, generate: Generate) -> Completion:
        return await generate(
            asked, role=self.role, schema=self._form, temperature=self.temperature, max_tokens=self.max_tokens
        )

    def _label(self, reply: Completion) -> dict[str, str]:
        """A ballot for each field, as JSON, so that equal values are equal texts; none where the sample is unsure."""
        label: Any = reply.text
        if self.explain or self.schema is not None:
            label = reply.parsed["label"] if self.explain else reply.parsed
        if self.schema is None:
            label = {} if label == UNSURE else {"": label}
        return {field: orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode() for field, value in label.items()}

    def _evidence(
        self, ballots: Sequence[Mapping[str, str]], votes: Mapping[str, Vote[str] | None], agreement: float
    ) -> dict[str, Json]:
        """How the samples voted, in the field that they agree least on; of equals, in one that is tied."""
        field = min(votes, key=lambda name: (vote.confidence, not vote.tied) if (vote := votes[name]) else (0.0, False))
        counts: dict[str, Json] = dict(Counter(one.get(field, UNSURE) for one in ballots))
        return {"agreement": agreement, "votes": counts, **({"field": field} if field else {})}
