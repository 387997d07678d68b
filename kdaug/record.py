"""The record: one training example in the making, with where it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Literal, Protocol, TypeAlias

import orjson

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Kind: TypeAlias = Literal["prompt", "completion", "preference", "unpaired"]
Part: TypeAlias = Literal["prompt", "completion", "record"]
KINDS: tuple[Kind, ...] = ("prompt", "completion", "preference", "unpaired")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for; `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def to_json(self) -> dict[str, Json]:
        """The message in the field's chat format; absent fields are left out."""
        plain: dict[str, Json] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            plain["tool_calls"] = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in self.tool_calls]
        if self.tool_call_id is not None:
            plain["tool_call_id"] = self.tool_call_id
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Message:
        if len(plain) == 2:  # as nearly all are: half of what reading a journal costs
            return cls(plain["role"], plain["content"])
        calls = tuple(ToolCall(c["id"], c["name"], c["arguments"]) for c in plain.get("tool_calls") or ())
        return cls(plain["role"], plain["content"], calls, plain.get("tool_call_id"))


Messages: TypeAlias = tuple[Message, ...]


def system(text: str) -> Messages:
    return (Message("system", text),)


def user(text: str) -> Messages:
    return (Message("user", text),)


def assistant(text: str) -> Messages:
    return (Message("assistant", text),)


def text_of(messages: Sequence[Message] | None) -> str:
    """The plain text: the content alone for one message, else `role: content` a paragraph."""
    if not messages:
        return ""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{m.role}: {m.content}" for m in messages)


def spoken(record: Record, part: Part) -> Messages:
    """The messages of a part, without system messages, which many records share. `record`: all of them."""
    prompt = tuple(m for m in record.prompt if m.role != "system")
    answers = (*(record.completion or ()), *(record.rejected or ()))
    return {"prompt": prompt, "completion": answers, "record": (*prompt, *answers)}[part]


class Origin(Protocol):
    """What a record was made from: a `Completion` is one."""

    @property
    def teacher(self) -> str: ...
    @property
    def key(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One training example in the making.

    `completion` is the chosen answer when `rejected` is set. `scores`: higher is better, everywhere. `parents` are ids
    of the records that it was made from, `roots` those of its ancestor seeds (splits are disjoint by these),
    `teachers` every model whose words are in it (their terms follow it), `replies` the journal keys of the replies
    that it itself was made from (those of its parents are theirs). `meta` is the user's: kdaug itself writes only
    `instruction` and `input` there, the two halves of a prompt in Alpaca's shape, `mixed_from`, the dataset that `mix`
    drew it from, `tags`, which the gate of that name found, `document`, the place in a file that the record is made of
    (kdaug/documents.py), and `attributes`, which the source of that name drew.
    """

    prompt: Messages
    completion: Messages | None = None
    rejected: Messages | None = None
    label: bool | None = None
    tools: tuple[Json, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    by: str = "seed"
    teachers: tuple[str, ...] = ()
    replies: tuple[str, ...] = ()
    meta: Mapping[str, Json] = field(default_factory=dict)
    _id: str = field(default="", init=False, repr=False, compare=False)

    @property
    def id(self) -> str:
        """96 bits of a hash of the text: prompt, completion, rejected, label and tools."""
        if not self._id:
            body = [
                _plain(self.prompt),
                _plain(self.completion),
                _plain(self.rejected),
                self.label,
                list(self.tools),
            ]
            digest = hashlib.blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=12).hexdigest()
            object.__setattr__(self, "_id", digest)
        return self._id

    @property
    def kind(self) -> Kind:
        """Which of TRL's column sets it exports to."""
        if self.rejected is not None:
            return "preference"
        if self.label is not None:
            return "unpaired"
        return "prompt" if self.completion is None else "completion"

    @property
    def instruction(self) -> str:
        """The task's text without its input, where the two are known apart."""
        given = self.meta.get("instruction")
        return given if isinstance(given, str) else text_of(self.prompt)

    def child(self, *others: Record, by: str, replies: Iterable[Origin] = (), **changes: Any) -> Record:
        """A record made from this one (and `others`) and from `replies`.

        Fields not in `changes` are this record's own. Scores stay only if the child merely adds to the text: a score
        speaks of the text that it was given for.
        """
        family, made_from = (self, *others), tuple(replies)
        rewritten = any(
            name in changes and getattr(self, name) is not None for name in ("prompt", "completion", "rejected")
        )
        changes.setdefault("scores", {} if rewritten else self.scores)
        return replace(
            self,
            parents=_union((r.id,) for r in family),
            roots=_union(r.roots or (r.id,) for r in family),
            by=by,
            teachers=_union([*(r.teachers for r in family), *((r.teacher,) for r in made_from)]),
            replies=_union((r.key,) for r in made_from),
            **changes,
        )

    def scored(self, **scores: float) -> Record:
        """With these scores too. Raises ValueError for one that is no number that JSON can hold."""
        for name, score in scores.items():
            if not isfinite(score):
                raise ValueError(f"score {name} is {score}: leave it out, or drop the record with a reason")
        return replace(self, scores={**self.scores, **scores})

    def to_json(self) -> dict[str, Any]:
        """All that is not empty, as plain JSON values: `from_json` gives the equal record."""
        plain: dict[str, Any] = {"prompt": _plain(self.prompt)}
        if self.completion is not None:
            plain["completion"] = _plain(self.completion)
        if self.rejected is not None:
            plain["rejected"] = _plain(self.rejected)
        if self.label is not None:
            plain["label"] = self.label
        for name in ("tools", "parents", "roots", "teachers", "replies"):
            if values := getattr(self, name):
                plain[name] = list(values)
        if self.by:
            plain["by"] = self.by
        if self.scores:
            plain["scores"] = dict(self.scores)
        if self.meta:
            plain["meta"] = dict(self.meta)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Record:
        return cls(
            prompt=_messages(plain["prompt"]) or (),
            completion=_messages(plain.get("completion")),
            rejected=_messages(plain.get("rejected")),
            label=plain.get("label"),
            tools=tuple(plain.get("tools", ())),
            scores=plain.get("scores", {}),
            parents=tuple(plain.get("parents", ())),
            roots=tuple(plain.get("roots", ())),
            by=plain.get("by", "seed"),
            teachers=tuple(plain.get("teachers", ())),
            replies=tuple(plain.get("replies", ())),
            meta=plain.get("meta", {}),
        )


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a record was not kept: `reason` is `gate:rule`, `detail` the evidence (twin, score, n-gram…)."""

    reason: str
    detail: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Discarded:
    """A record that a generator made and itself turns down (a failed evolution, a contradictory instance): it is
    counted and kept aside as any other drop."""

    record: Record
    drop: Drop


def _plain(messages: Messages | None) -> list[dict[str, Json]] | None:
    return None if messages is None else [m.to_json() for m in messages]


def _messages(plain: Sequence[Mapping[str, Any]] | None) -> Messages | None:
    return None if plain is None else tuple(Message.from_json(m) for m in plain)


def _union(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Every name once, in the order first seen."""
    return tuple(dict.fromkeys(name for group in groups for name in group if name))
