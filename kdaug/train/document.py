"""One prompt with one answer, as tokens."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TypeAlias

IGNORE = -100  # the target of a position that is not trained: torch's own convention
Tokens: TypeAlias = "array[int] | memoryview[int]"


@dataclass(frozen=True, slots=True)
class Document:
    """One prompt with one answer: `ids` [T], and `targets` [T]: the token that follows, or IGNORE. `record`: its id."""

    ids: Tokens
    targets: Tokens
    record: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained(self) -> int:
        return len(self.targets) - self.targets.tolist().count(IGNORE)
