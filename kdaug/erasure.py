"""Erasure: what only the teacher was told (a strategy, a hint, principles, exemplars) is in no record.

A student that is trained on hidden context learns to lean on what it will never be given (Orca 2's "prompt erasure",
arXiv 2311.11045, §3.2). The text is looked for by runs of words, in every message: where a run of `n` words of it
stands, it has leaked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kdaug.errors import ConfigError
from kdaug.record import Drop, Messages, Record, system
from kdaug.words import words

RUN = 6  # words in a row that two texts hardly share by chance
SHORTEST = 3  # a hidden text of fewer words is too common to be looked for


class Leak(NamedTuple):
    """`source`: which hidden text; `run`: its words that stand in the record."""

    source: str
    run: str


@dataclass(frozen=True)
class PromptEraser:
    """Finds and erases hidden texts, which are given by name. A hidden text of fewer than `n` words leaks as a whole,
    one of fewer than three words is not looked for.

    Raises ConfigError for an `n` below 6: shorter runs are found in any text.
    """

    hidden: Mapping[str, str]
    n: int = RUN
    _runs: Mapping[tuple[str, ...], str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.n < RUN:
            raise ConfigError(f"erasure: runs of {self.n} words are found in any text; take at least {RUN}")
        runs: dict[tuple[str, ...], str] = {}
        for source, text in self.hidden.items():
            for run in _runs(words(text), self.n):
                runs.setdefault(run, source)
        object.__setattr__(self, "_runs", runs)

    def find(self, text: str, given: str = "") -> Leak | None:
        """The first run of a hidden text in `text`, but for one that is in what was `given` openly too."""
        if not self._runs:
            return None
        said, open_ = words(text), None
        for length in sorted({len(run) for run in self._runs}):
            for start in range(len(said) - length + 1):
                run = tuple(said[start : start + length])
                if run not in self._runs:
                    continue
                open_ = open_ if open_ is not None else words(given)
                if not _stands_in(run, open_):
                    return Leak(self._runs[run], " ".join(run))
        return None

    def leak(self, record: Record, given: Messages = ()) -> Leak | None:
        """What has leaked into any message of a record. What the user's own prompt (`given`) says is no leak."""
        openly = "\n".join(message.content for message in given)
        messages = (*record.prompt, *(record.completion or ()), *(record.rejected or ()))
        return next((found for message in messages if (found := self.find(message.content, openly))), None)

    def drop(self, name: str, record: Record, given: Messages = ()) -> Drop | None:
        """The drop `name:leak` of a record into which something has leaked."""
        found = self.leak(record, given)
        return None if found is None else Drop(f"{name}:leak", {"source": found.source, "run": found.run})

    def erased(self, messages: Messages, generic: str = "") -> Messages:
        """The messages with `generic` in place of each system message that holds a hidden text ("": without it).

        Erasing once more changes nothing. Raises ConfigError for a `generic` that holds a hidden text itself.
        """
        if found := self.find(generic):
            raise ConfigError(f"erasure: the generic system message holds words of {found.source}: {found.run!r}")
        kept: list[Messages] = []
        for message in messages:
            hides = message.role == "system" and self.find(message.content) is not None
            kept.append((message,) if not hides else system(generic) if generic else ())
        return tuple(message for group in kept for message in group)


def _runs(said: Sequence[str], n: int) -> list[tuple[str, ...]]:
    if len(said) < SHORTEST:
        return []
    n = min(n, len(said))
    return [tuple(said[start : start + n]) for start in range(len(said) - n + 1)]


def _stands_in(run: tuple[str, ...], said: Sequence[str]) -> bool:
    n = len(run)
    return any(tuple(said[start : start + n]) == run for start in range(len(said) - n + 1))
