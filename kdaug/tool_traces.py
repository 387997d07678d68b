"""Tool traces: what an agent thought, called and was told, step by step, and the record of it.

An agent replies with one step as JSON: a thought, and an action that is a call of a tool or `Finish`. That works with
every teacher; the record holds real tool calls, and each observation as a message of the role `tool`, which no trainer
here learns to say (kdaug/chat.py marks the assistant's turns alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Json, Message, Messages, Record
from kdaug.teacher import Completion
from kdaug.tool_definitions import Definition, calls_schema, from_json
from kdaug.toolbox import CUT, Call, Observation, Toolbox, flaw_of, tool_call

FINISH = "Finish"
UNKNOWN = "invalid_function"  # what a call of a tool that is not there is renamed to, so that nobody learns its name
NOTHING = Observation("ok", "")
GIVE_UP, ANSWER = "give_up_and_restart", "give_answer"


@dataclass(frozen=True)
class Step:
    """One reply of an agent. `kind`: a call, a final answer, a give-up, or a Finish that is neither (`malformed`)."""

    kind: Literal["call", "answer", "give_up", "malformed"]
    thought: str
    call: Call
    completions: tuple[Completion, ...]
    observation: Observation = NOTHING

    @property
    def answer(self) -> str:
        return str(self.call.arguments["final_answer"])


def step_of(reply: Completion) -> Step:
    """Reads a reply. Raises ParseError("step") for one that is no step, or was cut."""
    found = reply.parsed
    action = found.get("action") if isinstance(found, dict) else None
    if reply.cut or not isinstance(action, dict) or not isinstance(action.get("name"), str):
        raise ParseError("step", reply.text)
    call = Call(action["name"], action.get("arguments") or {})
    thought = str(found.get("thought") or "").strip()
    return Step(_kind(call), thought, call, (reply,))


def _kind(call: Call) -> Literal["call", "answer", "give_up", "malformed"]:
    if call.name != FINISH:
        return "call"
    told = call.arguments if isinstance(call.arguments, dict) else {}
    if told.get("return_type") == GIVE_UP:
        return "give_up"
    answer = told.get("final_answer")
    right = told.get("return_type") == ANSWER and isinstance(answer, str) and answer.strip()
    return "answer" if right else "malformed"


def step_schema(offered: Sequence[Definition], *, acted: bool) -> dict[str, Any]:
    """The JSON schema of a step. What is likely comes first: a call, and Finish once there was one."""
    types = {"return_type": {"enum": [ANSWER]}, "final_answer": {"type": "string"}}
    answer = {"properties": types, "required": ["return_type", "final_answer"]}
    give_up = {"properties": {"return_type": {"enum": [GIVE_UP]}}, "required": ["return_type"]}
    finish = [
        {
            "type": "object",
            "properties": {"name": {"const": FINISH}, "arguments": {"type": "object", **arguments}},
            "required": ["name", "arguments"],
        }
        for arguments in (answer, give_up)
    ]
    calls = calls_schema(offered)["anyOf"] if offered else []
    action = {"anyOf": [*finish, *calls] if acted else [*calls, *finish]}
    properties = {"thought": {"type": "string"}, "action": action}
    return {"type": "object", "properties": properties, "required": ["thought", "action"]}


async def observed(
    step: Step, toolbox: Toolbox, offered: Sequence[Definition], generate: Generate, role: str = "teacher"
) -> Step:
    """The step with what its call gave: from the toolbox, or made up by `role` where nothing can be called.

    A call of a tool that is not offered is renamed and told so; observations are cut at 1,024 characters.
    """
    if step.kind == "malformed":
        told = Observation("invalid", f"{FINISH} needs return_type, and final_answer with {ANSWER}")
        return _told(step, step.call, told)
    if wrong := await flaw_of(step.call, offered):
        name = UNKNOWN if wrong.status == "unknown" else step.call.name
        return _told(step, Call(name, step.call.arguments), wrong)
    if toolbox.callable:
        return _told(step, step.call, await toolbox.call(step.call, generate, offered))
    [tool] = [definition for definition in offered if definition.name == step.call.name]
    reply = await _simulate(tool, step.call, generate, role)
    status, response = reply.parsed["status"], reply.parsed["response"]
    told = Observation("ok" if status < 400 else "error", response)
    return _told(step, step.call, told, reply)


def _told(step: Step, call: Call, told: Observation, *more: Completion) -> Step:
    told = Observation(told.status, told.text[:CUT])
    return Step(step.kind, step.thought, call, (*step.completions, *more), told)


RESPONSE = {
    "type": "object",
    "properties": {"status": {"type": "integer"}, "response": {"type": "string"}, "explanation": {"type": "string"}},
    "required": ["status", "response", "explanation"],
}


async def _simulate(definition: Definition, call: Call, generate: Generate, role: str) -> Completion:
    """A model in the place of the tool (ToolAlpaca, arXiv 2306.05301, §3.2: status code, response, explanation)."""
    told = orjson.dumps(definition.to_json()["function"]).decode()
    asked = render("tools/observe", definition=told, arguments=orjson.dumps(call.arguments).decode())
    return await generate(asked, role=role, schema=RESPONSE, temperature=0.0, max_tokens=1024)


def conversation(question: Messages, steps: Sequence[Step]) -> Messages:
    """What the agent is shown: its own replies, and each observation as the user's next turn."""
    turns: list[Message] = [*question]
    for step in steps:
        turns.append(Message("assistant", step.completions[0].text))
        turns.append(Message("user", render("tools/observation", text=step.observation.text)))
    return tuple(turns)


def messages_of(steps: Sequence[Step], answer: str | None) -> Messages:
    """The trace as the record has it: calls, observations, the final answer."""
    turns: list[Message] = []
    for number, step in enumerate(steps):
        if step.kind == "malformed":
            continue  # an attempt to end that failed is nothing to learn
        call = tool_call(step.call, number)
        turns.append(Message("assistant", step.thought, (call,)))
        turns.append(Message("tool", step.observation.text, tool_call_id=call.id))
    if answer is not None:
        turns.append(Message("assistant", answer.strip()))
    return tuple(turns)


def traced(record: Record, steps: Sequence[Step], answer: Step | None, *, by: str, **changes: Any) -> Record:
    """The record of a trace; every reply on it is among its origins."""
    told = messages_of(steps, answer.answer if answer else None)
    path = [*steps, answer] if answer else steps
    replies = [reply for step in path for reply in step.completions]
    return record.child(by=by, replies=replies, completion=told or None, rejected=None, label=None, **changes)


def offered_by(record: Record) -> tuple[Definition, ...]:
    """The tools that a record offers. Raises ParseError("tools") for what is no definition."""
    try:
        return tuple(from_json(plain, "a tool of the record") for plain in record.tools)
    except ConfigError as e:
        raise ParseError("tools", str(e)) from e


def shown(definitions: Sequence[Definition]) -> list[str]:
    """The definitions as JSON, one a line, for a prompt."""
    plain: list[Json] = [definition.to_json()["function"] for definition in definitions]
    return [orjson.dumps(one).decode() for one in plain]
