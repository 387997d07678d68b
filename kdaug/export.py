"""Records as JSON lines in the shapes that other tools read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import orjson

from kdaug.columns import ANSWERS, Row, join, plain_messages
from kdaug.errors import ConfigError, KdaugError
from kdaug.record import Json, Kind, Messages, Record

Format: TypeAlias = Literal["messages", "alpaca", "sharegpt", "trl", "openai-jsonl"]


def export(records: Iterable[Record], path: Path, format: Format, *, kinds: Sequence[Kind]) -> int:
    """Writes `records`, all of `kinds`, one JSON object a line; returns how many.

    Raises ConfigError, and leaves no file, where the format cannot hold a kind or a record.
    """
    if format not in _WRITERS:
        raise ConfigError(f"no export format {format!r}; there are {', '.join(get_args(Format))}")
    holds, write = _WRITERS[format]
    for kind in kinds:
        if kind not in holds:
            able = [name for name, (kinds_of_it, _) in _WRITERS.items() if kind in kinds_of_it]
            raise ConfigError(f"{format} cannot hold {kind} records; choose {' or '.join(able)}")
    number = 0
    with whole(path) as fresh, fresh.open("wb") as file:
        for record in records:
            file.write(orjson.dumps(write(record), option=orjson.OPT_APPEND_NEWLINE))
            number += 1
    return number


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write to, beside `path`: in the end the file takes its place, or after an error leaves no trace.

    Raises KdaugError for what the disk refuses.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        fresh.replace(path)
    except OSError as e:
        raise KdaugError(f"cannot write {path}: {e.strerror or e}") from e
    finally:
        with suppress(OSError):
            fresh.unlink()


def _trl(record: Record) -> Row:
    """TRL's conversational columns; tools as the list of JSON schemas that its trainers hand to the chat template."""
    row: Row = {"prompt": plain_messages(record.prompt)}
    for name, answer in zip(ANSWERS[record.kind], (record.completion, record.rejected), strict=False):
        row[name] = plain_messages(answer or ())
    if record.label is not None:
        row["label"] = record.label
    return row | _tools(record)


def _messages(record: Record) -> Row:
    return {"messages": plain_messages(record.prompt + (record.completion or ()))} | _tools(record)


def _openai(record: Record) -> Row:
    """The fine-tuning files of the OpenAI API: chats for supervised, pairs for preference fine-tuning."""
    if record.kind == "completion":
        return _messages(record)
    return {
        "input": {"messages": plain_messages(record.prompt)} | _tools(record),
        "preferred_output": plain_messages(record.completion or ()),
        "non_preferred_output": plain_messages(record.rejected or ()),
    }


def _alpaca(record: Record) -> Row:
    """Instruction, input, output; a system prompt and earlier turns in `system` and `history`, as LLaMA-Factory reads
    them."""
    _refuse_tools(record, "alpaca")
    said = list(record.prompt)
    row: Row = {}
    if said and said[0].role == "system":
        row["system"] = said.pop(0).content
    answers = record.completion or ()
    if len(answers) != 1 or [m.role for m in said] != ["user", "assistant"] * (len(said) // 2) + ["user"]:
        raise ConfigError(_cannot("alpaca", record, "turns that are not user and assistant by turns"))
    question = said.pop()
    instruction, given = record.meta.get("instruction"), record.meta.get("input", "")
    if not (isinstance(instruction, str) and isinstance(given, str)) or question.content != join(instruction, given):
        instruction, given = question.content, ""
    row |= {"instruction": instruction, "input": given, "output": answers[0].content}
    if said:
        row["history"] = [[q.content, a.content] for q, a in zip(said[::2], said[1::2], strict=True)]
    return row


def _sharegpt(record: Record) -> Row:
    _refuse_tools(record, "sharegpt")
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = record.prompt + (record.completion or ())
    return {"conversations": [{"from": names[m.role], "value": m.content} for m in turns]}


def _tools(record: Record) -> dict[str, Json]:
    return {"tools": list(record.tools)} if record.tools else {}


def _refuse_tools(record: Record, format: str) -> None:
    turns: Messages = record.prompt + (record.completion or ())
    if record.tools or any(m.tool_calls or m.role == "tool" for m in turns):
        raise ConfigError(_cannot(format, record, "tools"))


def _cannot(format: str, record: Record, what: str) -> str:
    return f"{format} cannot hold record {record.id}: it has {what}; choose messages or trl"


# Per format: the kinds that it can hold, and how it writes a record.
_WRITERS: dict[str, tuple[tuple[Kind, ...], Callable[[Record], Row]]] = {
    "messages": (("prompt", "completion"), _messages),
    "alpaca": (("completion",), _alpaca),
    "sharegpt": (("completion",), _sharegpt),
    "trl": (("prompt", "completion", "preference", "unpaired"), _trl),
    "openai-jsonl": (("completion", "preference"), _openai),
}
