"""AgentInstruct: documents transformed, instructions of many types on them, made harder (arXiv 2407.03502)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError, TeacherError
from kdaug.generator import Generate, settled
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, text_of, user
from kdaug.teacher import Completion

# What a document is turned into, and the kind of material that this is.
TRANSFORMERS: Mapping[str, tuple[str, str]] = {
    "passage": ("prose", "a clear passage of prose that keeps what is worth knowing"),
    "argument": ("prose", "an argument for or against one of its claims, with reasons"),
    "debate": ("talk", "a debate between two people who disagree about it"),
    "interview": ("talk", "an interview with somebody who knows the matter"),
    "minutes": ("talk", "the minutes of a meeting at which it was discussed"),
    "facts": ("list", "a list of single facts, each on a line"),
    "timeline": ("list", "a list of events or steps in their order"),
    "interface": ("list", "a list of functions that a program about it would offer, each with its parameters"),
}
# Types of instructions: the kinds of material that each can be asked about, and what it asks for.
SEED_TYPES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "literal": (("prose", "talk", "list"), "a question whose answer stands in it word for word"),
    "inference": (("prose", "talk"), "a question whose answer follows from it without standing in it"),
    "vocabulary": (("prose", "talk"), "a question on what a word or phrase means in it"),
    "weaken": (("prose", "talk"), "a question on what would weaken its main claim"),
    "strengthen": (("prose", "talk"), "a question on what would support its main claim"),
    "purpose": (("prose", "talk"), "a multiple choice question on its purpose, with four options"),
    "rewrite": (("prose",), "an order to rewrite it for other readers or in another form"),
    "expand": (("prose", "list"), "an order to carry one point of it further"),
    "compare": (("talk", "list"), "a question that compares two of its parts"),
    "order": (("list",), "a task of sorting or grouping its entries by a rule"),
    "use": (("list",), "a practical problem that is solved with some of its entries"),
}


@dataclass(frozen=True)
class AgentInstruct:
    """Turns a document into another form, writes an instruction of some type on that, and makes it harder up to
    `refinements` times: a suggester says how, an editor does it.

    A flow is (transformer, type), where the type can be asked about that kind of material; each document gets `flows`
    different ones, by chance. The flow and its number of refinements stand in `by`:
    `agent_instruct/debate/weaken/1`. The prompt is the transformed text and the instruction; answer it in a stage of
    `respond`. A step that was cut or empty ends its flow as `agent_instruct:cut` or `:empty`.
    """

    flows: int = 3
    refinements: int = 1
    temperature: float = 0.8
    max_tokens: int = 1024
    transformers: tuple[str, ...] = tuple(TRANSFORMERS)
    types: tuple[str, ...] = tuple(SEED_TYPES)

    name: ClassVar[str] = "agent_instruct"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        unknown = [*({*self.transformers} - {*TRANSFORMERS}), *({*self.types} - {*SEED_TYPES})]
        if unknown or not flows_of(self.transformers, self.types):
            raise ConfigError(f"agent_instruct: no flow from {unknown or 'these transformers to these types'}")
        if self.flows < 1 or not 0 <= self.refinements <= 2:
            raise ConfigError("agent_instruct: flows must be at least 1, refinements from 0 to 2")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (document,) = parents
        known = flows_of(self.transformers, self.types)
        drawn = rng.sample(known, min(self.flows, len(known)))
        results = await settled([self._flow(document, *flow, generate.branch("/".join(flow))) for flow in drawn])
        made: list[Record | Discarded] = []
        for flow, result in zip(drawn, results, strict=True):
            if isinstance(result, TeacherError | ParseError):
                made.append(Discarded(document, Drop(result.reason, {"flow": "/".join(flow), "error": str(result)})))
            else:
                made.append(result)
        return made

    async def _flow(self, document: Record, transformer: str, seed: str, generate: Generate) -> Record | Discarded:
        replies: list[Completion] = []

        async def step(name: str, **values: str) -> str | None:
            asked = render(f"{self.name}/{name}", **values)
            replies.append(await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens))
            text = replies[-1].text.strip()
            return None if replies[-1].cut or not text else text

        def ended(name: str) -> Discarded:
            what = "cut" if replies[-1].cut else "empty"
            failed = document.child(by=f"{self.name}/{transformer}/{seed}", replies=replies)
            return Discarded(failed, Drop(f"agent_instruct:{what}", {"step": name}))

        form, wish = TRANSFORMERS[transformer][1], SEED_TYPES[seed][1]
        material = await step("transform", document=text_of(document.prompt), form=form)
        if material is None:
            return ended("transform")
        instruction = await step("instruct", material=material, wish=wish)
        if instruction is None:
            return ended("instruct")
        for _ in range(self.refinements):
            suggestion = await step("suggest", material=material, instruction=instruction)
            if suggestion is None:
                return ended("suggest")
            edited = await step("edit", material=material, instruction=instruction, suggestion=suggestion)
            if edited is None:
                return ended("edit")
            instruction = edited
        return document.child(
            by=f"{self.name}/{transformer}/{seed}/{self.refinements}",
            replies=replies,
            prompt=user(f"{material}\n\n{instruction}"),
            completion=None,
            rejected=None,
            label=None,
            meta={**document.meta, "instruction": instruction, "input": material},
        )


def flows_of(transformers: Sequence[str], types: Sequence[str]) -> list[tuple[str, str]]:
    """Every flow whose type can be asked about what its transformer makes."""
    return [(t, s) for t, s in product(transformers, types) if TRANSFORMERS[t][0] in SEED_TYPES[s][0]]
