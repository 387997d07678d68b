"""Function calls that are checked three times: by form, by running them, by their sense (APIGen, arXiv 2406.18518)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

import orjson

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Json, Message, Record, text_of, user
from kdaug.tool_definitions import BESIDE, Definition, calls_schema
from kdaug.tool_traces import shown
from kdaug.toolbox import Call, Observation, Toolbox, flaw_of, same_calls, tool_call

STYLES = ("simple", "multiple", "parallel", "parallel_multiple")
VERDICT = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "pass": {"type": "boolean"}},
    "required": ["reason", "pass"],
}


@dataclass(frozen=True)
class ApiGen:
    """A query and the calls that serve it, for tools drawn from a library; the parents are examples.

    `styles`, drawn evenly: `simple`, one tool and one call; `multiple`, several tools and one call; `parallel`, several
    calls of one tool; `parallel_multiple`, calls of several tools.

    The checks, in order of price: form (`apigen:format`: the query is empty, a tool is not among those shown, an
    argument is missing, unknown or of a wrong type), `apigen:style`, execution (`apigen:execution`: a call failed), and
    sense (`apigen:semantic`: the judge does not find query, calls and results to fit). Calls that equal an example's
    are `apigen:copy`. Raises ConfigError for tools that cannot be called.
    """

    tools: str = field(default="tools.py", metadata=BESIDE)
    styles: tuple[str, ...] = STYLES
    offered: int = 4  # tools at most, where a style shows several
    temperature: float = 0.7  # paper, §4
    max_tokens: int = 1024
    toolbox: Toolbox = field(init=False, repr=False, metadata={"fingerprint": True})

    name: ClassVar[str] = "apigen"
    roles: ClassVar[tuple[str, ...]] = ("teacher", "judge")
    judges: ClassVar[tuple[str, ...]] = ("judge",)

    def __post_init__(self) -> None:
        if unknown := [style for style in self.styles if style not in STYLES] or not self.styles:
            raise ConfigError(f"apigen: styles are some of {', '.join(STYLES)}, not {unknown}")
        object.__setattr__(self, "toolbox", Toolbox(self.tools))
        if not self.toolbox.callable:
            raise ConfigError(
                f"apigen: the functions of {self.tools} cannot be run: give a .py file, a module, or mcp:…"
            )
        if self.offered < 2 or len(self.toolbox.definitions) < 2:
            raise ConfigError("apigen: at least two tools, and offered at least 2")

    @property
    def needs(self) -> tuple[str, ...]:
        return self.toolbox.needs

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        tools, style = self.toolbox.definitions, rng.choice(self.styles)
        several = rng.randint(2, min(self.offered, len(tools)))
        offered = rng.sample(tools, 1 if style in ("simple", "parallel") else several)
        examples = [{"query": text_of(p.prompt), "calls": _plain(calls_of(p))} for p in parents if calls_of(p)]
        asked = render("apigen/ask", tools=shown(offered), style=style, examples=examples)
        reply = await generate(
            asked, schema=_schema(style, offered), temperature=self.temperature, max_tokens=self.max_tokens
        )
        if reply.cut:
            raise ParseError("calls", reply.text)
        query, calls = _read(reply.parsed)
        made = (Message("assistant", "", tuple(tool_call(call, number) for number, call in enumerate(calls))),)
        child = parents[0].child(
            *parents[1:],
            by=f"{self.name}/{style}",
            replies=[reply],
            prompt=user(query),
            completion=made,
            rejected=None,
            label=None,
            tools=tuple(definition.to_json() for definition in offered),
            meta={},
        )
        if drop := await self._flaw(query, style, offered, calls, parents):
            return [Discarded(child, drop)]
        return [await self._checked(child, query, calls, offered, generate)]

    async def _flaw(
        self, query: str, style: str, offered: Sequence[Definition], calls: Sequence[Call], parents: Sequence[Record]
    ) -> Drop | None:
        """What can be seen without running anything."""
        wrong = "the query is empty" if not query else await format_flaw(calls, offered)
        if wrong:
            return Drop("apigen:format", {"problem": wrong})
        if wrong := style_flaw(style, calls):
            return Drop("apigen:style", {"problem": wrong})
        twin = next((parent for parent in parents if same_calls(calls, calls_of(parent))), None)
        return Drop("apigen:copy", {"twin": twin.id}) if twin else None

    async def _checked(
        self, child: Record, query: str, calls: Sequence[Call], offered: Sequence[Definition], generate: Generate
    ) -> Record | Discarded:
        results = [await self.toolbox.call(call, generate, offered) for call in calls]
        failed = [result.text for result in results if result.status != "ok"]
        if failed:
            return Discarded(child, Drop("apigen:execution", {"error": failed[0]}))
        told = _told(calls, results)
        asked = render("apigen/sense", query=query, tools=shown(offered), results=told)
        verdict = await generate(asked, role="judge", schema=VERDICT, temperature=0.0, max_tokens=self.max_tokens)
        if verdict.parsed["pass"] is not True:
            return Discarded(child, Drop("apigen:semantic", {"reason": verdict.parsed["reason"]}))
        return child


async def format_flaw(calls: Sequence[Call], offered: Sequence[Definition]) -> str | None:
    """What is wrong with the form of calls: none at all, a tool that was not shown, arguments against its schema."""
    for call in calls:
        if wrong := await flaw_of(call, offered):
            return f"{call.name}: {wrong.text}"
    return None if calls else "there is no call"


def style_flaw(style: str, calls: Sequence[Call]) -> str | None:
    """What in the number of calls and of tools is not of the style."""
    tools = len({call.name for call in calls})
    right = {
        "simple": len(calls) == 1,
        "multiple": len(calls) == 1,
        "parallel": len(calls) > 1 and tools == 1,
        "parallel_multiple": tools > 1,
    }[style]
    return None if right else f"{len(calls)} calls of {tools} tools are not {style}"


def calls_of(record: Record) -> list[Call]:
    """The calls in a record's answer. Arguments that are no JSON stay the text that they are."""
    found = []
    for message in record.completion or ():
        for call in message.tool_calls:
            try:
                found.append(Call(call.name, orjson.loads(call.arguments)))
            except orjson.JSONDecodeError:
                found.append(Call(call.name, call.arguments))
    return found


def _read(found: Any) -> tuple[str, list[Call]]:
    """Raises ParseError("calls") for a JSON value of another form."""
    try:
        return str(found["query"]).strip(), [Call(call["name"], call["arguments"]) for call in found["calls"]]
    except (KeyError, TypeError) as e:
        raise ParseError("calls", str(found)) from e


def _schema(style: str, offered: Sequence[Definition]) -> dict[str, Any]:
    calls = {"type": "array", "items": calls_schema(offered), "minItems": 2 if style.startswith("parallel") else 1}
    return {
        "type": "object",
        "properties": {"query": {"type": "string"}, "calls": calls},
        "required": ["query", "calls"],
    }


def _plain(calls: Sequence[Call]) -> str:
    told: list[Json] = [call.to_json() for call in calls]
    return orjson.dumps(told).decode()


def _told(calls: Sequence[Call], results: Sequence[Observation]) -> list[str]:
    return [f"{_plain([call])[1:-1]} -> {result.text}" for call, result in zip(calls, results, strict=True)]
