"""A stage, and what a run holds of it while it is at work: its jobs, and how they end."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kdaug.budget import Budget
from kdaug.calls import CallStats, Replies
from kdaug.errors import Unrecorded
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generator
from kdaug.journal import Commit, Dropped, Failed
from kdaug.record import Drop, Record
from kdaug.source import Page, Source
from kdaug.teacher import Teacher, holds_back

FAILURE_WINDOW = 200  # live jobs over which the failure rate is taken
# Simulated: 8 x the teacher's slots lose nothing to in-order commits where max_tokens caps the tail.
WINDOW_PER_SLOT = 8
GROWING_WINDOW_PER_SLOT = 2  # a wider one would draw from a stale pool


@dataclass(frozen=True)
class Stage:
    """A generator and the gates behind it. `window`: jobs at work at a time (None: from the teachers' concurrency).

    All `prepare` of a stage run before any `decide`, so a gate that costs money belongs in a later stage than one that
    drops for free: `Stage(Pass(), [Judge()])`.
    """

    generator: Generator
    gates: Sequence[Gate] = ()
    window: int | None = None


@dataclass(frozen=True)
class Ending:
    """`by`: source, target, interrupted, failed, barren, or the cap that was reached (max_jobs, max_cost, …).
    `why`: what else there is to say."""

    by: str
    error: BaseException | None = None
    why: str = ""


@dataclass
class StageStats:
    name: str
    jobs: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    live: int = 0  # jobs at work now


@dataclass
class Stats:
    """What a run did so far; the progress display reads it."""

    stages: list[StageStats]
    calls: CallStats
    target: int | None = None
    budget: Budget | None = None
    teachers: Mapping[str, Teacher] = field(default_factory=dict)


@dataclass
class Job:
    """`redoes`: the drop of an earlier job that this one tries again; `made`: what that job had made, where the failure
    only kept it from its gates: then the generator is not asked."""

    number: int
    parents: tuple[Record, ...] | Page
    redoes: Drop | None = None
    made: Record | None = None
    outcome: asyncio.Task[Worked | None] | None = None
    decided: Commit | None = None
    replies: Replies = field(default_factory=dict)
    unrecorded: Unrecorded | None = None


@dataclass(frozen=True)
class Worked:
    """What a job's concurrent half ends with: a child is ready for its gates, or already a drop."""

    children: list[tuple[Record, list[Prepared]] | Dropped]
    teacher_failed: bool = False


@dataclass
class Line:
    """A stage at work. `decided`, `committed`, `asked` and `redone`: what the journal knew of it before."""

    index: int
    stage: Stage
    gates: list[Gate]
    window: int
    stats: StageStats
    decided: Iterator[Commit]
    committed: int
    asked: int
    redone: dict[int, Failed]
    failed: list[Failed] = field(default_factory=list)
    drawn: int = 0  # from the source, or the stage above
    started: int = 0
    barren: int = 0
    ended: bool = False
    planned: bool = False
    jobs: asyncio.Queue[Job | None] = field(default_factory=asyncio.Queue)
    returned: asyncio.Queue[list[Record]] = field(default_factory=asyncio.Queue)
    kept: asyncio.Queue[Record | None] = field(default_factory=asyncio.Queue)
    failures: deque[bool] = field(default_factory=lambda: deque(maxlen=FAILURE_WINDOW))

    @property
    def remembering(self) -> list[Gate]:
        return [g for g in self.gates if type(g).remember is not Gate.remember]


def resolve_windows(
    source: Source, stages: Sequence[Stage], teachers: Mapping[str, Teacher], target: int | None
) -> list[int]:
    """How many jobs each stage works on at a time. The draws of a growing pool depend on it, so a run keeps its own."""
    slots = max((t.concurrency for t in teachers.values()), default=1)
    windows = [max((_window(t) for t in teachers.values()), default=WINDOW_PER_SLOT)] * len(stages)
    if source.grows:
        # A pool that grew to its target in one window would never show a grown demonstration. A job proposes about
        # 8 tasks, so this gives the pool four generations at least.
        windows[0] = min(GROWING_WINDOW_PER_SLOT * slots, max(1, target // 32) if target else slots)
    return [stage.window or window for stage, window in zip(stages, windows, strict=True)]


def _window(teacher: Teacher) -> int:
    """Enough for the teacher. The replies of a batch come all at once: nothing is gained by more than a batch."""
    return teacher.concurrency if holds_back(teacher) else WINDOW_PER_SLOT * teacher.concurrency
