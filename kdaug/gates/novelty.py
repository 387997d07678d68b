"""What the gates that look for near-duplicates share: which text they compare, and which seeds count as kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from kdaug.errors import ConfigError, shorten
from kdaug.record import Drop, Json, Message, Record, text_of

On: TypeAlias = Literal["instruction", "prompt", "completion"]


def check_fields(gate: str, threshold: float, on: str) -> None:
    """Raises ConfigError where a near-duplicate gate's fields are out of range."""
    if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise ConfigError(f"{gate}: threshold must be between 0 and 1, not {threshold!r}")
    if on not in get_args(On):
        raise ConfigError(f"{gate}: on must be one of {', '.join(get_args(On))}, not {on!r}")


def compared(record: Record, on: On) -> str:
    """The text that is compared: blank where the record has none.

    `instruction`: the task without its input, where the two are known apart (else as `prompt`). `prompt`: all of it
    but the system messages, which many records share and which would make them all alike. `completion`: the answer.
    """
    if on == "completion":
        return text_of(record.completion)
    if on == "instruction" and isinstance(record.meta.get("instruction"), str):
        return record.instruction
    return text_of(_spoken(record.prompt))


def _spoken(prompt: Sequence[Message]) -> Sequence[Message]:
    return [m for m in prompt if m.role != "system"]


def seed_texts(seeds: Sequence[Record], on: On) -> dict[str, str]:
    """The seeds' compared texts by seed id, in order, without those that have none."""
    return {s.id: text for s in seeds if (text := compared(s, on)).strip()}


def is_own_seed(record: Record, text: str, seeds: Mapping[str, str]) -> bool:
    """Whether this is a seed's own text, passed on or answered, and not a new one that happens to equal it.

    Such a record is held only against what was kept: else a recipe that answers its seeds would drop them all as
    duplicates of themselves. A record with several ancestor seeds (Self-Instruct's eight examples) is always new.
    """
    roots = record.roots or (record.id,)
    return len(roots) == 1 and seeds.get(roots[0]) == text


def near_duplicate(gate: str, twin: str, score: float, text: str) -> Drop:
    """`twin` is the id of the earliest kept record (or seed) over the threshold, `score` its similarity, `text` its."""
    detail: dict[str, Json] = {"twin": twin, "score": score, "text": shorten(text)}
    return Drop(f"{gate}:near_duplicate", detail)
