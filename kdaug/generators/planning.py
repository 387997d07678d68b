"""Planning traces: a plan first, then its steps by calls of tools (after ReAct, arXiv 2210.03629; FireAct,
arXiv 2310.05915)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.prompts import converse, render
from kdaug.record import Discarded, Drop, Record, text_of
from kdaug.teacher import Completion
from kdaug.tool_definitions import BESIDE, Definition
from kdaug.tool_traces import Step, conversation, observed, offered_by, shown, step_of, step_schema, traced
from kdaug.toolbox import Toolbox


@dataclass(frozen=True)
class Planning:
    """Asks for a plan whose steps name tools, and carries it out step by step, `steps` calls at most.

    A plan is discarded before it is carried out where it has no step (`planning:empty`) or names a tool that the record
    does not offer (`planning:not_offered`); a trace where it gives up (`planning:give_up`), does not end
    (`planning:unfinished`), or calls none of what was planned (`planning:off_plan`). The record's first turn of the
    assistant says the plan; observations are messages of the role `tool`, so that training masks them. `tools` is where
    the calls are made; without it the teacher makes up what they give.
    """

    tools: str = field(default="", metadata=BESIDE)
    steps: int = 8
    temperature: float = 0.7
    max_tokens: int = 1024
    toolbox: Toolbox = field(init=False, repr=False, metadata={"fingerprint": True})

    name: ClassVar[str] = "planning"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)
    renders: ClassVar[tuple[str, ...]] = ("tools/observe", "tools/observation")

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"planning: steps is {self.steps}; it must be at least 1")
        object.__setattr__(self, "toolbox", Toolbox(self.tools))

    @property
    def needs(self) -> tuple[str, ...]:
        return self.toolbox.needs

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        offered = offered_by(record) or self.toolbox.definitions
        if not offered:
            return [Discarded(record, Drop("planning:no_tools"))]
        offers = tuple(definition.to_json() for definition in offered)
        query = text_of(record.prompt)
        asked = render("planning/plan", query=query, tools=shown(offered))
        reply = await self._ask(asked, _schema(offered), generate)
        plan, planned = _plan(reply)
        told = record.child(by=self.name, replies=[reply], completion=None, rejected=None, label=None, tools=offers)
        known = {definition.name for definition in offered}
        if not plan:
            return [Discarded(told, Drop("planning:empty"))]
        if missing := next((name for name in planned if name not in known), None):
            return [Discarded(told, Drop("planning:not_offered", {"tool": missing, "plan": plan}))]
        likely = sorted(offered, key=lambda definition: definition.name not in planned)
        steps, last = await self._carry_out(query, plan, likely, generate)
        answer = last if last and last.kind == "answer" else None
        child = traced(record, steps, answer, by=self.name, tools=offers)
        child = _with_plan(child, plan, reply)
        if last is None or answer is None:
            return [Discarded(child, Drop("planning:give_up" if last else "planning:unfinished", {"plan": plan}))]
        used = {step.call.name for step in steps if step.observation.status == "ok"}
        if not used & {*planned}:
            return [Discarded(child, Drop("planning:off_plan", {"plan": plan}))]
        return [child]

    async def _carry_out(
        self, query: str, plan: str, offered: Sequence[Definition], generate: Generate
    ) -> tuple[list[Step], Step | None]:
        """The steps, and the one that ended them."""
        question = converse("planning/act", query=query, plan=plan, tools=shown(offered))
        steps: list[Step] = []
        for _ in range(self.steps):
            schema = step_schema(offered, acted=bool(steps))
            step = step_of(await self._ask(conversation(question, steps), schema, generate))
            if step.kind in ("answer", "give_up"):
                return steps, step
            steps.append(await observed(step, self.toolbox, offered, generate))
        return steps, None

    async def _ask(self, asked: Any, schema: Any, generate: Generate) -> Completion:
        return await generate(asked, schema=schema, temperature=self.temperature, max_tokens=self.max_tokens)


def _schema(offered: Sequence[Definition]) -> dict[str, Any]:
    name = {"anyOf": [{"enum": [definition.name for definition in offered]}, {"type": "string"}]}
    step = {"type": "object", "properties": {"step": {"type": "string"}, "tool": name}, "required": ["step", "tool"]}
    return {"type": "object", "properties": {"plan": {"type": "array", "items": step}}, "required": ["plan"]}


def _plan(reply: Completion) -> tuple[str, list[str]]:
    """The plan as a numbered list, and the tools that it names. A step without a tool is one of thought alone."""
    try:
        steps = [(str(step["step"]).strip(), str(step["tool"]).strip()) for step in reply.parsed["plan"]]
    except (KeyError, TypeError) as e:
        raise ParseError("plan", reply.text) from e
    if reply.cut:
        raise ParseError("plan", reply.text)
    lines = [f"{number}. {step}" + (f" ({tool})" if tool else "") for number, (step, tool) in enumerate(steps, 1)]
    return "\n".join(lines), [tool for _, tool in steps if tool]


def _with_plan(child: Record, plan: str, reply: Completion) -> Record:
    """The plan stands at the head of the first turn."""
    if not child.completion:
        return child
    first, *rest = child.completion
    content = f"Plan:\n{plan}" + (f"\n\n{first.content}" if first.content else "")
    teachers = tuple(dict.fromkeys((reply.teacher, *child.teachers)))
    turns = (replace(first, content=content), *rest)
    return replace(child, completion=turns, replies=(reply.key, *child.replies), teachers=teachers)
