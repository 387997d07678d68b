"""The shapes in which training data comes: which one a row has, by its fields, and the record that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import orjson

from kdaug.columns import LINEAGE, join, record_of
from kdaug.errors import shorten
from kdaug.record import Json, Message, Messages, Record, Role, ToolCall, assistant, user

Row: TypeAlias = Mapping[str, Any]  # as a JSON, YAML, CSV or Parquet reader gives it; a null counts as left out


class BadRow(Exception):
    """What is wrong with a row; whoever reads the file adds the place."""


@dataclass(frozen=True, slots=True)
class Garbled:
    """What stands where a row should: why it is none, and its text. What follows it can be read.

    `document`: it is a file of a folder, whose others are whole without it.
    """

    wrong: str
    text: str
    document: bool = False


@dataclass(frozen=True)
class Shape:
    """`needs`: the fields that tell it; `may`: the others that it reads or knows of."""

    name: str
    needs: tuple[str, ...]
    may: tuple[str, ...]
    read: Callable[[Row], Record]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.needs)})"


def shape_of(row: Any) -> Shape:
    """Raises BadRow, which names the fields seen and the shapes known, where there is none."""
    if not isinstance(row, Mapping):
        raise BadRow(f"{_kind(row)} instead of an object with fields: {shorten(repr(row), 60)}")
    if (shape := _shape_with(tuple(name for name, value in row.items() if value is not None))) is not None:
        return shape
    seen = ", ".join(map(str, row)) or "none at all"
    raise BadRow(f"the fields are {shorten(seen)}, and no shape has them; there are {'; '.join(map(str, SHAPES[1:]))}")


@lru_cache(64)
def _shape_with(fields: tuple[str, ...]) -> Shape | None:
    return next((shape for shape in SHAPES if set(fields).issuperset(shape.needs)), None)


def read_row(row: Any, shape: Shape) -> Record:
    """Raises BadRow where the row is of another shape, or something in it is missing, empty or of a wrong type."""
    try:
        found = shape_of(row)
    except BadRow:
        missing = [name for name in shape.needs if isinstance(row, Mapping) and row.get(name) is None]
        if not missing:
            raise
        raise BadRow(f"{_quoted(missing)} missing, which the first record has: add it or take the record out") from None
    if found is not shape:
        raise BadRow(f"the record is {found}, the first one is {shape}: keep one shape in a file")
    return shape.read(row)


def several(row: Any) -> list[Row]:
    """A row for each answer of one that lists `completions` of its prompt, with their `scores` in the same order or a
    score within each; none of any other row. Raises BadRow where a text is missing, or a score."""
    if not isinstance(row, Mapping) or row.get("prompt") is None or row.get("completion") is not None:
        return []
    answers = row.get("completions")
    if not isinstance(answers, list):
        return []
    marks = row.get("scores")
    if marks is not None and not (isinstance(marks, list) and len(marks) == len(answers)):
        raise BadRow(f'"scores" is {_kind(marks)}, not a list of {len(answers)} numbers, one for each of "completions"')
    shared = {name: value for name, value in row.items() if name not in ("completions", "scores")}
    made: list[Row] = []
    for i, answer in enumerate(answers):
        scores: Any = None if marks is None else {"score": marks[i]}
        if isinstance(answer, Mapping):
            scores = scores or answer.get("scores") or {"score": answer.get("score")}
            answer = next((answer[name] for name in _SAID if answer.get(name) is not None), None)
        if answer is None:
            raise BadRow(f'"completions[{i}]" has no text: give it as {", ".join(_SAID)} or in place of the object')
        made.append({**shared, "completion": answer, "scores": scores})
    return made


_SAID = ("completion", "response", "text", "content")  # where an answer that is an object has its text


def _kdaug(row: Row) -> Record:
    try:
        return record_of(row)
    except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError) as e:
        raise BadRow(f"not as kdaug wrote it ({type(e).__name__}: {e}): take the file as it came") from e


def _self_instruct(row: Row) -> Record:
    """A seed task of Self-Instruct: its first instance is the demonstration."""
    instances = row["instances"]
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], Mapping):
        raise BadRow('"instances" is not a list of objects with input and output')
    first = instances[0]
    return _instructed(row, _optional(first, "input"), assistant(_text(first, "output")))


def _alpaca(row: Row) -> Record:
    output = None if row.get("output") is None else assistant(_text(row, "output"))
    return _instructed(row, _optional(row, "input"), output)


def _instructed(row: Row, given: str, completion: Messages | None) -> Record:
    """`system` and `history` as LLaMA-Factory has them: a system prompt, and pairs of earlier turns."""
    instruction = _text(row, "instruction")
    earlier: list[Message] = []
    if row.get("system"):
        earlier.append(Message("system", _text(row, "system")))
    for pair in row.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow('"history" is not a list of pairs of texts')
        turns = {"question": pair[0], "answer": pair[1]}
        earlier += [*user(_text(turns, "question")), *assistant(_text(turns, "answer"))]
    return Record(
        prompt=(*earlier, *user(join(instruction, given))),
        completion=completion,
        scores=_scores(row),
        meta={**_meta(row), "instruction": instruction, "input": given},
    )


def _preference(row: Row) -> Record:
    prompt = _prompt(row)
    return Record(
        prompt=prompt,
        completion=_answer(row, "chosen", prompt),
        rejected=_answer(row, "rejected", prompt),
        tools=_tools(row),
        scores=_scores(row),
        meta=_meta(row),
    )


def _unpaired(row: Row) -> Record:
    label, prompt = row["label"], _prompt(row)
    if isinstance(label, str) and label.lower() in ("true", "false"):  # CSV has texts only
        label = label.lower() == "true"
    if not isinstance(label, bool):
        raise BadRow(f'"label" is {_kind(label)}, not true or false')
    completion = _answer(row, "completion", prompt)
    return Record(
        prompt=prompt, completion=completion, label=label, tools=_tools(row), scores=_scores(row), meta=_meta(row)
    )


def _prompt_completion(row: Row) -> Record:
    prompt = _prompt(row)
    completion = None if row.get("completion") is None else _answer(row, "completion", prompt)
    return Record(prompt=prompt, completion=completion, tools=_tools(row), scores=_scores(row), meta=_meta(row))


def _chat(row: Row) -> Record:
    return _conversation(row, _messages(row["messages"], "messages"))


def _sharegpt(row: Row) -> Record:
    turns = row["conversations"]
    if isinstance(turns, list) and all(isinstance(t, Mapping) and "from" in t for t in turns):
        turns = [{"role": _SHAREGPT_ROLES.get(t["from"], t["from"]), "content": t.get("value")} for t in turns]
    messages = _messages(turns, "conversations")
    if row.get("system"):
        messages = (Message("system", _text(row, "system")), *messages)
    return _conversation(row, messages)


_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}


def _conversation(row: Row, messages: Messages) -> Record:
    """The last turn is the completion where the assistant has it."""
    prompt, completion = messages, None
    if messages[-1].role == "assistant":
        prompt, completion = messages[:-1], messages[-1:]
    if not prompt:
        raise BadRow("there is nothing before the assistant's turn: add what it answers")
    return Record(prompt=prompt, completion=completion, tools=_tools(row), scores=_scores(row), meta=_meta(row))


def _document(row: Row) -> Record:
    return Record(prompt=user(_text(row, "document")), meta=_meta(row))


DOCUMENT = Shape("documents", ("document",), ("meta",), _document)
# The first that fits is taken, so the more telling stand first.
SHAPES = (
    Shape(
        "kdaug's own",
        tuple(sorted(LINEAGE)),
        ("completion", "chosen", "rejected", "label", "tools", "scores", "meta"),
        _kdaug,
    ),
    Shape(
        "Self-Instruct seed tasks",
        ("instruction", "instances"),
        ("id", "name", "is_classification", "meta"),
        _self_instruct,
    ),
    Shape("preference", ("prompt", "chosen", "rejected"), ("tools", "scores", "meta"), _preference),
    Shape("unpaired preference", ("prompt", "completion", "label"), ("tools", "scores", "meta"), _unpaired),
    Shape("messages", ("messages",), ("tools", "scores", "meta"), _chat),
    Shape("ShareGPT", ("conversations",), ("system", "tools", "scores", "meta"), _sharegpt),
    Shape("alpaca", ("instruction",), ("input", "output", "system", "history", "scores", "meta"), _alpaca),
    Shape("prompt/completion", ("prompt",), ("completion", "tools", "scores", "meta"), _prompt_completion),
    DOCUMENT,
)


def _prompt(row: Row) -> Messages:
    return user(_text(row, "prompt")) if isinstance(row["prompt"], str) else _messages(row["prompt"], "prompt")


def _answer(row: Row, name: str, prompt: Messages) -> Messages:
    """An answer as text or messages; some datasets repeat the prompt before it."""
    if isinstance(row[name], str):
        return assistant(_text(row, name))
    messages = _messages(row[name], name)
    if messages[: len(prompt)] == prompt:
        messages = messages[len(prompt) :]
    if not messages or messages[0].role != "assistant":
        raise BadRow(f'"{name}" does not start with a turn of the assistant, nor with the prompt')
    return messages


def _messages(value: Any, name: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise BadRow(f'"{name}" is {_kind(value)}, not {"" if name in _LISTS else "text or "}a list of messages')
    return tuple(_message(turn, f"{name}[{i}]") for i, turn in enumerate(value))


_LISTS = ("messages", "conversations")  # the fields that cannot be plain text


def _message(turn: Any, name: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow(f'"{name}" is {_kind(turn)}, not a message with role and content')
    role = _ROLES.get(str(turn.get("role")))
    if role is None:
        raise BadRow(f'"{name}" has the role {turn.get("role")!r}; there are system, user, assistant and tool')
    try:
        calls = tuple(_call(call) for call in turn.get("tool_calls") or ())
    except (KeyError, TypeError, AttributeError) as e:
        raise BadRow(f'"{name}.tool_calls" lacks {e}: each needs a function with name and arguments') from e
    content = "" if calls and not turn.get("content") else _text(turn, "content", f"{name}.content")
    return Message(role, content, calls, turn.get("tool_call_id"))


_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def _call(call: Mapping[str, Any]) -> ToolCall:
    """As the OpenAI API has it, or without the `function` around name and arguments."""
    function = call.get("function") or call
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return ToolCall(call.get("id") or "", function["name"], text)


def _tools(row: Row) -> tuple[Json, ...]:
    """JSON schemas, as a list or as its JSON text."""
    tools = _parsed(row.get("tools"), "tools")
    if not isinstance(tools or [], list):
        raise BadRow(f'"tools" is {_kind(tools)}, not a list of JSON schemas')
    return tuple(tools or ())


def _meta(row: Row) -> dict[str, Json]:
    meta = _parsed(row.get("meta"), "meta")
    if not isinstance(meta or {}, dict):
        raise BadRow(f'"meta" is {_kind(meta)}, not an object')
    return dict(meta or {})


def _scores(row: Row) -> dict[str, float]:
    """By their names; what other datasets have under that name, such as a list, says nothing to us."""
    found = _parsed(row.get("scores"), "scores")
    if not isinstance(found, dict):
        return {}
    for name, value in found.items():
        if value is not None and type(value) not in (int, float):
            raise BadRow(f'"scores" has {_kind(value)} under "{name}", not a number')
    return {name: float(value) for name, value in found.items() if value is not None}


def _parsed(value: Any, name: str) -> Any:
    """A value that may come as JSON text, and that JSON can hold."""
    try:
        return orjson.loads(value if isinstance(value, str) else orjson.dumps(value))
    except (orjson.JSONDecodeError, TypeError) as e:
        raise BadRow(f'"{name}" is no JSON: {e}') from e


def _optional(row: Row, name: str) -> str:
    return _text(row, name) if row.get(name) else ""


def _text(row: Row, name: str, shown: str = "") -> str:
    value, shown = row.get(name), shown or name
    if value is None:
        raise BadRow(f'"{shown}" is missing')
    if not isinstance(value, str):
        raise BadRow(f'"{shown}" is {_kind(value)}, not text')
    if not value.strip():
        raise BadRow(f'"{shown}" is empty: give it a text, or leave the field out where it may be missing')
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise BadRow(f'"{shown}" holds {value[e.start]!r}, half of a character: write the whole one') from e
    return value


def _kind(value: Any) -> str:
    names: Sequence[tuple[type, str]] = (
        (bool, "a truth value"),
        (int, "a number"),
        (float, "a number"),
        (str, "text"),
        (list, "a list" if value else "an empty list"),
        (Mapping, "an object"),
    )
    return next(
        (name for kind, name in names if isinstance(value, kind)), "null" if value is None else type(value).__name__
    )


def _quoted(names: Sequence[str]) -> str:
    return " and ".join(f'"{name}"' for name in names) + (" is" if len(names) == 1 else " are")
