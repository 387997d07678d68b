"""UltraFeedback: several models answer, and a judge rates them side by side, aspect by aspect (arXiv 2310.01377)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from random import Random
from statistics import fmean
from typing import ClassVar, Literal

from kdaug.erasure import PromptEraser
from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate, settled
from kdaug.judging import parse_score
from kdaug.pairs import HOW, How, PairBuilder, paired
from kdaug.prompts import listed, render
from kdaug.record import Discarded, Drop, Json, Messages, Record, system, text_of, user
from kdaug.samples import answered, sampled
from kdaug.teacher import Completion

NOT_APPLICABLE = "N/A"


@dataclass(frozen=True)
class UltraFeedback:
    """Draws `answers` of the roles `models` for a prompt, each under a principle that is drawn by its source, and has
    the judge rate all answers in one prompt, in an order of its own for each aspect. Ratings stand in `scores` under
    the aspect's name, their mean as `ultrafeedback`; an aspect that is "N/A" is left out of the mean.

    Of each answer the judge besides writes a critique with an overall mark from 1 to 10 (`scores["overall"]`).
    `keep="pairs"`: preferences by `score_by`, the mean of the aspects or the overall mark, as `how` says;
    `"ranked"`: the answers themselves, with all their scores; `"critiques"`: the critiques, as data for a critic.

    `templates/prompts/ultrafeedback/`: `sources.j2` (the principles by `meta["source"]`), `systems.j2` (system messages
    by principle), `aspects.j2`. A system message of these is in no record, and an answer that repeats one is
    discarded (`ultrafeedback:leak`). A rating that is not of the form is asked for again, up to `tries` times in all;
    what stays without makes the whole prompt a drop (`parse:ratings`).
    """

    models: tuple[str, ...] = ("teacher", "student")
    answers: int = 4  # paper, §2.2: 4 of 17 models
    keep: Literal["pairs", "ranked", "critiques"] = "pairs"
    score_by: Literal["aspects", "overall"] = "aspects"
    how: How = "random_lower"
    min_margin: float = 0.0
    tries: int = 3
    max_tokens: int = 1024

    name: ClassVar[str] = "ultrafeedback"
    judges: ClassVar[tuple[str, ...]] = ("judge",)

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) < len(self.models) or self.answers < 2 or self.tries < 1:
            raise ConfigError("ultrafeedback: models are different roles; answers is at least 2, tries at least 1")
        if self.keep not in ("pairs", "ranked", "critiques") or self.score_by not in ("aspects", "overall"):
            raise ConfigError("ultrafeedback: keep is pairs, ranked or critiques; score_by is aspects or overall")
        if self.how not in HOW:
            raise ConfigError(f"ultrafeedback: how is one of {', '.join(HOW)}")
        _ = PairBuilder(self.how, self.min_margin)

    @property
    def roles(self) -> tuple[str, ...]:
        return (*self.models, "judge")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        replies, made = await self._answers(record, generate, rng)
        if len(replies) < 2:
            alone = (Discarded(answered(record, one, by=self.name), Drop("ultrafeedback:single")) for one in replies)
            return [*made, *alone]
        table, judged = await self._ratings(record, replies, generate, rng)
        critiques = await settled([self._criticised(record, reply, generate) for reply in replies])
        if self.keep == "critiques":
            return [*made, *(self._critic(record, *one) for one in zip(replies, critiques, strict=True))]
        scores = [
            summed({aspect: marks[place] for aspect, marks in table.items()}, critiques[place])
            for place in range(len(replies))
        ]
        if self.keep == "ranked":
            for reply, marks in zip(replies, scores, strict=True):
                made.append(answered(record, reply, by=self.name, replies=[reply, *judged]).scored(**marks))
            return made
        key = "ultrafeedback" if self.score_by == "aspects" else "overall"
        builder = PairBuilder(self.how, self.min_margin)
        return [
            *made,
            *paired(record, replies, [one.get(key, nan) for one in scores], builder, rng, by=self.name, score=key),
        ]

    async def _answers(
        self, record: Record, generate: Generate, rng: Random
    ) -> tuple[list[Completion], list[Record | Discarded]]:
        """Answers of models that are drawn (again only when all were), each told its principle by a system message."""
        drawn = [
            role
            for _ in range(-(-self.answers // len(self.models)))
            for role in rng.sample(self.models, len(self.models))
        ]
        systems = listed(f"{self.name}/systems")
        principles = [draw(str(record.meta.get("source", "any")), rng) for _ in range(self.answers)]
        told = [rng.choice([text for name, text in systems if name == principle]) for principle in principles]
        calls = [
            generate(guided(record.prompt, text), role=role, temperature=1.0, top_p=1.0, max_tokens=self.max_tokens)
            for role, text in zip(drawn, told, strict=False)
        ]
        replies, turned_down = await sampled(record, calls, by=self.name)
        eraser = PromptEraser({f"{name} {n}": text for n, (name, text) in enumerate(systems)})
        kept: list[Completion] = []
        made: list[Record | Discarded] = [*turned_down]
        for reply in replies:
            child = answered(record, reply, by=self.name)
            if drop := eraser.drop(self.name, child, given=record.prompt):
                made.append(Discarded(child, drop))
            else:
                kept.append(reply)
        return kept, made

    async def _ratings(
        self, record: Record, replies: Sequence[Completion], generate: Generate, rng: Random
    ) -> tuple[dict[str, list[float]], list[Completion]]:
        """By aspect the rating of each answer, in the order of `replies`, NaN where it does not apply."""
        aspects = listed(f"{self.name}/aspects")
        orders = [rng.sample(range(len(replies)), len(replies)) for _ in aspects]
        told = await settled(
            [
                self._rated(record, [replies[place].text for place in order], text, generate)
                for (_, text), order in zip(aspects, orders, strict=True)
            ]
        )
        table: dict[str, list[float]] = {}
        judged: list[Completion] = []
        for (name, _), order, rated in zip(aspects, orders, told, strict=True):
            if not isinstance(rated, tuple):
                raise rated
            table[name] = unshuffled(rated[0], order)
            judged.append(rated[1])
        return table, judged

    async def _rated(
        self, record: Record, shown: Sequence[str], aspect: str, generate: Generate
    ) -> tuple[list[float], Completion]:
        reference = record.meta.get("reference", "")
        asked = render(
            f"{self.name}/rate", prompt=text_of(record.prompt), answers=shown, aspect=aspect, reference=reference
        )
        form = rating_form(len(shown), NOT_APPLICABLE in aspect)
        wrong = ParseError("ratings", "")
        for _ in range(self.tries):
            try:
                reply = await generate(
                    asked, role="judge", schema=form, temperature=0.0, top_p=0.6, max_tokens=self.max_tokens
                )
                return read_ratings(reply, len(shown)), reply
            except ParseError as e:
                wrong = ParseError("ratings", e.text)
        raise wrong

    async def _criticised(self, record: Record, reply: Completion, generate: Generate) -> tuple[Completion, float]:
        asked = render(f"{self.name}/critique", prompt=text_of(record.prompt), response=reply.text)
        said = await generate(asked, role="judge", temperature=0.0, max_tokens=self.max_tokens)
        if said.cut:
            raise ParseError("score", said.text)
        return said, parse_score(said.text, 1, 10)

    def _critic(self, record: Record, reply: Completion, critique: object) -> Record | Discarded:
        """The critique of an answer as data for a critic: what the judge was asked, and what it said."""
        asked = user(render(f"{self.name}/critique", prompt=text_of(record.prompt), response=reply.text))
        if not isinstance(critique, tuple):
            failed = record.child(by=f"{self.name}/critique", replies=[reply], prompt=asked, completion=None)
            return Discarded(failed, Drop("parse:score", {"error": str(critique)}))
        said, mark = critique
        child = answered(record, said, by=f"{self.name}/critique", replies=[reply, said], prompt=asked)
        return child.scored(overall=mark)


def summed(marks: Mapping[str, float], critique: object) -> dict[str, float]:
    """An answer's scores: its aspects as far as they apply, their mean, and the overall mark, where there is one."""
    scores = {name: mark for name, mark in marks.items() if not isnan(mark)}
    if scores:
        scores["ultrafeedback"] = fmean(scores.values())
    if isinstance(critique, tuple):
        scores["overall"] = critique[1]
    return scores


def unshuffled(ratings: Sequence[float], order: Sequence[int]) -> list[float]:
    """Ratings of answers that were shown in `order` (places), in the order of the answers themselves."""
    own = [nan] * len(order)
    for rating, place in zip(ratings, order, strict=True):
        own[place] = rating
    return own


def rating_form(count: int, may_not_apply: bool) -> dict[str, Json]:
    """The JSON schema of so many ratings with their reasons."""
    marks: list[Json] = [1, 2, 3, 4, 5, *([NOT_APPLICABLE] if may_not_apply else [])]
    one: dict[str, Json] = {
        "type": "object",
        "properties": {"rationale": {"type": "string"}, "rating": {"enum": marks}},
        "required": ["rationale", "rating"],
    }
    many: dict[str, Json] = {"type": "array", "items": one, "minItems": count, "maxItems": count}
    return {"type": "object", "properties": {"ratings": many}, "required": ["ratings"]}


def read_ratings(reply: Completion, count: int) -> list[float]:
    """The ratings in the order shown, NaN for "N/A". Raises ParseError("ratings") for another number of them."""
    told = reply.parsed["ratings"]
    if len(told) != count:
        raise ParseError("ratings", reply.text)
    return [nan if one["rating"] == NOT_APPLICABLE else float(one["rating"]) for one in told]


def draw(source: str, rng: Random) -> str:
    """A principle for an instruction of this source. Raises ConfigError for a line that is no list of shares."""
    table = dict(listed("ultrafeedback/sources"))
    shares: dict[str, int] = {}
    for part in table.get(source, table.get("any", "")).split(","):
        name, _, share = part.strip().rpartition(" ")
        if not share.isdigit():
            raise ConfigError(
                "template prompts/ultrafeedback/sources.j2: expected lines of `source | principle 60, principle 40` "
                "and one for `any`"
            )
        shares[name.strip()] = int(share)
    return rng.choices([*shares], [*shares.values()])[0]


def guided(prompt: Messages, text: str) -> Messages:
    """The prompt under a system message, which goes before one of its own."""
    if prompt[0].role == "system":
        return (*system(f"{text}\n\n{prompt[0].content}"), *prompt[1:])
    return (*system(text), *prompt)
