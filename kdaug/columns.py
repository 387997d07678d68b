"""Records as rows of a table: TRL's columns for what is trained on, and beside them where each record came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from kdaug.record import Kind, Message, Messages, Record, ToolCall

if TYPE_CHECKING:
    import pyarrow as pa

Row: TypeAlias = dict[str, Any]  # plain Python values, as pyarrow and datasets give them

# Marks a row as ours: no other dataset has these side by side.
LINEAGE = frozenset({"id", "prompt", "parents", "roots", "by", "teachers", "replies"})


@dataclass(frozen=True)
class Columns:
    """The columns of one kind; `tools`, `calls` (tool calls in a message) and `scores` only where records have them."""

    kind: Kind
    tools: bool = False
    calls: bool = False
    scores: tuple[str, ...] = ()

    def schema(self) -> pa.Schema:
        import pyarrow as pa

        text, texts = pa.string(), pa.list_(pa.string())
        message = [("role", text), ("content", text)]
        if self.calls:  # in the shape that chat templates read
            call = pa.struct(
                [("id", text), ("type", text), ("function", pa.struct([("name", text), ("arguments", text)]))]
            )
            message += [("tool_calls", pa.list_(call)), ("tool_call_id", text)]
        messages = pa.list_(pa.struct(message))
        fields = [("id", text), ("prompt", messages), *((name, messages) for name in ANSWERS[self.kind])]
        if self.kind == "unpaired":
            fields.append(("label", pa.bool_()))
        if self.tools:
            fields.append(("tools", text))
        if self.scores:
            fields.append(("scores", pa.struct([(name, pa.float64()) for name in self.scores])))
        fields += [("parents", texts), ("roots", texts), ("by", text), ("teachers", texts), ("replies", texts)]
        return pa.schema([*fields, ("meta", text)])

    def row(self, record: Record) -> Row:
        answers = zip(ANSWERS[self.kind], (record.completion, record.rejected), strict=False)
        row: Row = {
            "id": record.id,
            "prompt": plain_messages(record.prompt),
            **{name: None if answer is None else plain_messages(answer) for name, answer in answers},
            "parents": list(record.parents),
            "roots": list(record.roots),
            "by": record.by,
            "teachers": list(record.teachers),
            "replies": list(record.replies),
            "meta": _json(dict(record.meta)),
        }
        if self.kind == "unpaired":
            row["label"] = record.label
        if self.tools:
            row["tools"] = _json(list(record.tools)) if record.tools else None
        if self.scores:
            row["scores"] = dict(record.scores) or None
        return row


# Which columns hold `completion` and `rejected` (TRL's names).
ANSWERS: dict[Kind, tuple[str, ...]] = {
    "prompt": (),
    "completion": ("completion",),
    "preference": ("chosen", "rejected"),
    "unpaired": ("completion",),
}


class Survey:
    """Finds out, record by record, which columns a kind needs."""

    def __init__(self, kind: Kind) -> None:
        self._kind: Kind = kind
        self._tools = self._calls = False
        self._scores: set[str] = set()

    def see(self, record: Record) -> None:
        self._tools = self._tools or bool(record.tools)
        self._scores.update(record.scores)
        if not self._calls:
            said = (*record.prompt, *(record.completion or ()), *(record.rejected or ()))
            self._calls = any(m.tool_calls or m.tool_call_id is not None for m in said)

    def columns(self) -> Columns:
        return Columns(self._kind, self._tools, self._calls, tuple(sorted(self._scores)))


def record_of(row: Mapping[str, Any]) -> Record:
    """The record that `Columns.row` made the row from."""
    tools, scores = row.get("tools"), row.get("scores") or {}
    answer = row.get("chosen") if "chosen" in row else row.get("completion")
    return Record(
        prompt=_messages(row["prompt"]) or (),
        completion=_messages(answer),
        rejected=_messages(row.get("rejected")),
        label=row.get("label"),
        tools=tuple(orjson.loads(tools)) if tools else (),
        scores={name: score for name, score in scores.items() if score is not None},
        parents=tuple(row["parents"]),
        roots=tuple(row["roots"]),
        by=row["by"],
        teachers=tuple(row["teachers"]),
        replies=tuple(row["replies"]),
        meta=orjson.loads(row.get("meta") or "{}"),
    )


def join(instruction: str, given: str) -> str:
    """The prompt of an instruction with its input."""
    return f"{instruction}\n\n{given}" if given else instruction


def plain_messages(messages: Messages) -> list[Row]:
    """The chat format that chat templates and the APIs read; what a message has not is left out."""
    return [_plain(m) for m in messages]


def _plain(message: Message) -> Row:
    plain: Row = {"role": message.role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _messages(plain: Iterable[Mapping[str, Any]] | None) -> Messages | None:
    return None if plain is None else tuple(_message(m) for m in plain)


def _message(plain: Mapping[str, Any]) -> Message:
    calls = tuple(
        ToolCall(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in plain.get("tool_calls") or ()
    )
    return Message(plain["role"], plain["content"], calls, plain.get("tool_call_id"))


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
