"""Tool use that is played by three agents: user, assistant and tool (ToolAlpaca, arXiv 2306.05301, §3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.prompts import converse, render
from kdaug.record import Discarded, Drop, Record, text_of
from kdaug.tool_definitions import Definition
from kdaug.tool_traces import Step, conversation, observed, offered_by, shown, step_of, step_schema, traced
from kdaug.toolbox import CUT, Observation, Toolbox

PLAYED = Toolbox("")  # nothing can be called: a model makes up what the tools give
ASK = Definition(
    "ask_user",
    "Asks the person for a detail that the request lacks.",
    {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]},
)


@dataclass(frozen=True)
class ToolAlpaca:
    """Lets an assistant serve a request with the record's tools, which a model plays, as it plays the person who is
    asked for details.

    A trace of more than `most_steps` steps is `toolalpaca:long`, one that only asks for details
    `toolalpaca:only_details`, one without a call that worked `toolalpaca:no_call`, one that gives up
    `toolalpaca:give_up`. Observations are messages of the role `tool`, which training masks.
    """

    most_steps: int = 5  # paper: traces of more are dropped
    temperature: float = 0.0  # paper: the assistant's
    max_tokens: int = 1024

    name: ClassVar[str] = "toolalpaca"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)
    renders: ClassVar[tuple[str, ...]] = ("tools/observe", "tools/observation")

    def __post_init__(self) -> None:
        if self.most_steps < 1:
            raise ConfigError("toolalpaca: most_steps is at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if not record.tools:
            return [Discarded(record, Drop("toolalpaca:no_tools"))]
        offered = (*(d for d in offered_by(record) if d.name != ASK.name), ASK)
        question = converse("toolalpaca/solve", query=text_of(record.prompt), tools=shown(offered))
        steps: list[Step] = []
        while True:
            schema = step_schema(offered, acted=bool(steps))
            reply = await generate(
                conversation(question, steps), schema=schema, temperature=self.temperature, max_tokens=self.max_tokens
            )
            step = step_of(reply)
            if step.kind in ("answer", "give_up"):
                break
            if len(steps) == self.most_steps:
                break  # one step too many: it need not be played
            steps.append(await self._played(step, record, offered, generate))
        answer = step if step.kind == "answer" else None
        tools = tuple(definition.to_json() for definition in offered)
        child = traced(record, steps, answer, by=self.name, tools=tools)
        flaw = self._flaw(steps, step)
        return [Discarded(child, Drop(f"toolalpaca:{flaw}", {"steps": len(steps)})) if flaw else child]

    def _flaw(self, steps: Sequence[Step], last: Step) -> str | None:
        if last.kind not in ("answer", "give_up"):
            return "long"
        if last.kind == "give_up":
            return "give_up"
        if steps and all(step.call.name == ASK.name for step in steps):
            return "only_details"
        return None if any(step.kind == "call" and step.observation.status == "ok" for step in steps) else "no_call"

    async def _played(self, step: Step, record: Record, offered: Sequence[Definition], generate: Generate) -> Step:
        if step.call.name != ASK.name or await ASK.flaw(step.call.arguments):
            return await observed(step, PLAYED, offered, generate)
        asked = render("toolalpaca/detail", query=text_of(record.prompt), question=step.call.arguments["question"])
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        told = Observation("ok", reply.text.strip()[:CUT])
        return Step(step.kind, step.thought, step.call, (*step.completions, reply), told)
