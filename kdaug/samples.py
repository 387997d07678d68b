"""Samples: several replies to one prompt, and which of them are answers at all."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from kdaug.generator import settled
from kdaug.record import Discarded, Drop, Json, Record, assistant
from kdaug.teacher import Completion


async def sampled(
    record: Record, calls: Sequence[Awaitable[Completion]], *, by: str, distinct: bool = True
) -> tuple[list[Completion], list[Discarded]]:
    """The replies that are usable, and the others as drops: calls that failed, and what `unusable` says of the rest.
    With `distinct=False` a reply may say what an earlier one said."""
    usable: list[Completion] = []
    turned_down: list[Discarded] = []
    for reply in await settled(calls):
        if not isinstance(reply, Completion):
            turned_down.append(Discarded(record, Drop(reply.reason, {"error": str(reply)})))
        elif drop := unusable(reply, by, usable if distinct else ()):
            turned_down.append(Discarded(answered(record, reply, by=by), drop))
        else:
            usable.append(reply)
    return usable, turned_down


def answered(
    record: Record, reply: Completion, *, by: str, replies: Sequence[Completion] = (), **changes: Any
) -> Record:
    """The completion record of a prompt and a reply to it, in place of an answer that it had. `replies`: all that it
    was made from, where these are more than that one; `changes`: what else is new."""
    told = {"completion": assistant(reply.text), "rejected": None, "label": None, **changes}
    return record.child(by=by, replies=replies or [reply], **told)


def unusable(reply: Completion, name: str, earlier: Sequence[Completion] = (), **detail: Json) -> Drop | None:
    """What makes a reply no answer, before anything is spent on it: it was cut, is empty, or says what an earlier one
    said."""
    if reply.cut:
        return Drop(f"{name}:cut", detail)
    said = reply.text.split()
    if not said:
        return Drop(f"{name}:empty", detail)
    if any(said == other.text.split() for other in earlier):
        return Drop(f"{name}:duplicate", detail)
    return None
