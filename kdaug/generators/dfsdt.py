"""Tool use by a search in depth over decisions, DFSDT (ToolLLM, arXiv 2307.16789, §2.3, authors' code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar, Literal

from kdaug.errors import ConfigError, TeacherError
from kdaug.generator import Generate
from kdaug.prompts import converse, render
from kdaug.record import Discarded, Drop, Record, text_of, user
from kdaug.tool_definitions import BESIDE, Definition
from kdaug.tool_traces import Step, conversation, observed, offered_by, shown, step_of, step_schema, traced
from kdaug.toolbox import Toolbox

EVERYTHING = 1_000_000  # levels to pop that end the whole search


@dataclass(frozen=True)
class Dfsdt:
    """Lets the teacher call a record's tools until it answers, and lets it try again elsewhere in the tree.

    Children of a node are made and explored one at a time, `beam` at most; one that is not the first is asked for with
    the earlier ones shown and something else wished for. A final answer ends the search. A give-up pops two levels, so
    neither its siblings nor, as the very first reply, anything else is tried (as in the authors' code); a node at the
    depth limit pops one. `depth` counts the authors' tree nodes: thought, action and input of a reply are three
    (`count: calls` counts replies). `queries` bounds the replies of one search.

    The record is one path, from the question to the answer, without give-ups, siblings or what was said of them. A
    search that ended with give-ups alone is discarded as `dfsdt:give_up` with one of their paths, one without an end as
    `dfsdt:unsolved`, an answer without any call that worked as `dfsdt:no_call`. `tools` is where the calls are made;
    without it, or with a file of definitions, the teacher makes up what they give.
    """

    tools: str = field(default="", metadata=BESIDE)
    beam: int = 2  # authors' runs
    depth: int = 12  # authors' code
    count: Literal["nodes", "calls"] = "nodes"
    queries: int = 60  # authors' default; 200 in their runs
    temperature: float = 0.7
    max_tokens: int = 1024
    toolbox: Toolbox = field(init=False, repr=False, metadata={"fingerprint": True})

    name: ClassVar[str] = "dfsdt"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)
    renders: ClassVar[tuple[str, ...]] = ("tools/observe", "tools/observation")

    def __post_init__(self) -> None:
        if min(self.beam, self.depth, self.queries) < 1:
            raise ConfigError("dfsdt: beam, depth and queries are at least 1")
        object.__setattr__(self, "toolbox", Toolbox(self.tools))

    @property
    def needs(self) -> tuple[str, ...]:
        return self.toolbox.needs

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if not record.tools:
            return [Discarded(record, Drop("dfsdt:no_tools"))]
        search = _Search(self, record, offered_by(record), generate)
        try:
            await search.explore([], 0)
        except TeacherError as e:
            if e.fatal or search.asked == 1:
                raise
            return [Discarded(record, Drop(e.reason, {"error": str(e), "queries": search.asked}))]
        told = {"queries": search.asked}
        if search.answered:
            *path, answer = search.answered
            child = traced(record, path, answer, by=self.name)
            if not any(step.kind == "call" and step.observation.status == "ok" for step in path):
                return [Discarded(child, Drop("dfsdt:no_call", told))]
            return [child]
        if search.given_up:
            path = rng.choice(search.given_up)
            return [Discarded(traced(record, path, None, by=self.name), Drop("dfsdt:give_up", told))]
        return [Discarded(record, Drop("dfsdt:unsolved", told))]


@dataclass
class _Search:
    how: Dfsdt
    record: Record
    offered: Sequence[Definition]
    generate: Generate
    asked: int = 0
    answered: list[Step] = field(default_factory=list)
    given_up: list[list[Step]] = field(default_factory=list)

    async def explore(self, path: list[Step], nodes: int) -> int:
        """Tries the children of the node at the end of `path`; says how many levels to pop."""
        if nodes >= self.how.depth:
            return 1
        tried: list[Step] = []
        for _ in range(self.how.beam):
            if self.asked >= self.how.queries:
                return EVERYTHING
            step = await self._next(path, tried)
            pop = await self._follow(path, step, nodes)
            if pop > 1:
                return pop - 1
            tried.append(step)
        return 1

    async def _follow(self, path: list[Step], step: Step, nodes: int) -> int:
        if step.kind == "answer":
            self.answered = [*path, step]
            return EVERYTHING
        if step.kind == "give_up":
            self.given_up.append(path)
            return 2
        more = 1 if self.how.count == "calls" else 3 if step.thought else 2
        return await self.explore([*path, step], nodes + more)

    async def _next(self, path: list[Step], tried: Sequence[Step]) -> Step:
        self.asked += 1
        question = converse("dfsdt/solve", query=text_of(self.record.prompt), tools=shown(self.offered))
        asked = conversation(question, path)
        if tried:  # it stands in no path, so no descendant sees it, and no record
            calls = [(step.call.name, step.call.arguments, step.observation.text) for step in tried]
            asked = (*asked, *user(render("dfsdt/differently", calls=calls)))
        schema = step_schema(self.offered, acted=bool(path))
        reply = await self.generate(
            asked, schema=schema, temperature=self.how.temperature, max_tokens=self.how.max_tokens
        )
        step = step_of(reply)
        if step.kind not in ("call", "malformed"):
            return step
        return await observed(step, self.how.toolbox, self.offered, self.generate)
