"""Samples: several replies to one prompt, and which of them are answers at all."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from statistics import fmean
from typing import Any

from kdaug.errors import ParseError
from kdaug.generator import Generate, settled
from kdaug.judging import Verdict, grade
from kdaug.parsing import numbered_list
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


async def marked(
    record: Record, replies: Sequence[Completion], generate: Generate, *, by: str, judgements: int, **how: Any
) -> tuple[list[Completion], list[float], list[Discarded]]:
    """Replies with the means of their marks, and as drops (`unscored`) those that no judgement marked. A judgement that
    failed is left out of the mean; `how` is that of `grade`."""
    samples = [answered(record, reply, by=by) for reply in replies]
    verdicts = await settled([grade(one, generate, **how) for one in samples for _ in range(judgements)])
    known, means, unscored = list[Completion](), list[float](), list[Discarded]()
    for i, (one, reply) in enumerate(zip(samples, replies, strict=True)):
        own = verdicts[i * judgements : (i + 1) * judgements]
        scores = [verdict.score for verdict in own if isinstance(verdict, Verdict)]
        if scores:
            known.append(reply)
            means.append(fmean(scores))
        else:
            failures: list[Json] = [verdict.reason for verdict in own if not isinstance(verdict, Verdict)]
            unscored.append(Discarded(one, Drop(f"{by}:unscored", {"failures": failures})))
    return known, means, unscored


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


def list_items(reply: Completion, wanted: int) -> list[tuple[str, str | None]]:
    """The items of the list in a reply, each with what is wrong with it by its place alone: the last one of a reply
    that was `cut` may lack its end, and what is beyond the `wanted` ones is `surplus`.

    Raises ParseError("list") where no item is whole.
    """
    found = numbered_list(reply.text)
    if len(found) <= reply.cut:
        raise ParseError("list", reply.text)
    flaws = ["surplus" if place >= wanted else None for place in range(len(found))]
    if reply.cut:
        flaws[-1] = "cut"
    return list(zip(found, flaws, strict=True))
