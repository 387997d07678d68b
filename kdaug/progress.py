"""What a run says while it runs: a live display on a terminal, plain lines elsewhere, all of it in log.txt as well."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from kdaug.teacher import Reporting

if TYPE_CHECKING:
    from rich.console import Console

    from kdaug.stage import Stats

REFRESH = 0.25  # seconds between two pictures on a terminal
PLAIN_EVERY = 10.0  # seconds between two plain lines
SILENT_AT_MOST = 60.0  # seconds
RATE_OVER = 60.0  # seconds over which rates are taken


@dataclass
class Log:
    """Says lines: on stderr (stdout is for results) and, with the time, in `path`."""

    path: Path | None = None
    quiet: bool = False
    _console: Console | None = field(default=None, init=False, repr=False)

    @property
    def live(self) -> bool:
        return not self.quiet and sys.stderr.isatty()

    @property
    def console(self) -> Console:
        from rich.console import Console

        if self._console is None:
            self._console = Console(stderr=True, highlight=False)
        return self._console

    def say(self, line: str, *, show: bool = True) -> None:
        if self.path is not None:
            # A full disk is found out by the journal, which says so: here it only costs the line.
            with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n")
        if not show or self.quiet:
            return
        if self.live:
            self.console.print(line, markup=False, emoji=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is where lines are said


@asynccontextmanager
async def watching(stats: Stats, log: Log, *, jobs: int | None) -> AsyncIterator[None]:
    """Within it the run's numbers are shown. `jobs`: how many the source holds, where that is known."""
    view = _View(stats, jobs)
    task = asyncio.create_task(_show_live(view, log) if log.live else _show_plain(view, log))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        log.say(view.whole(), show=not log.live)


async def _show_live(view: _View, log: Log) -> None:
    from rich.live import Live
    from rich.text import Text

    written = 0.0
    with Live(Text(""), console=log.console, auto_refresh=False, transient=False) as live:
        try:
            while True:
                view.sample()
                live.update(Text("\n".join(view.lines())), refresh=True)
                if time.monotonic() - written > PLAIN_EVERY:
                    log.say(view.line(), show=False)
                    written = time.monotonic()
                await asyncio.sleep(REFRESH)
        finally:
            live.update(Text("\n".join(view.lines())), refresh=True)


async def _show_plain(view: _View, log: Log) -> None:
    """A line when something has changed, and once a minute when nothing has."""
    wait, said, silent = 2.0, "", 0.0
    while True:
        await asyncio.sleep(wait)
        view.sample()
        silent += wait
        if (line := view.line()) != said or silent >= SILENT_AT_MOST:
            log.say(line)
            said, silent = line, 0.0
        wait = PLAIN_EVERY


class _View:
    """Turns counters into words and rates."""

    def __init__(self, stats: Stats, jobs: int | None) -> None:
        self._stats, self._jobs = stats, jobs
        self._samples: deque[tuple[float, int, int, float]] = deque()
        self._started = time.monotonic()
        self.sample()

    def sample(self) -> None:
        now = time.monotonic()
        self._samples.append((now, self._stats.calls.calls, self._tokens, self._done))
        while now - self._samples[0][0] > RATE_OVER:
            self._samples.popleft()

    @property
    def _tokens(self) -> int:
        return self._stats.calls.completion_tokens

    @property
    def _done(self) -> float:
        """Records of the target; without one, jobs of the source, by the share that has come through the last stage."""
        stages = self._stats.stages
        if self._stats.target:
            return stages[-1].kept
        shares = (stage.jobs / before.kept for before, stage in pairwise(stages) if before.kept)
        return stages[0].jobs * prod(shares)

    def rates(self) -> tuple[float, float, float]:
        """Calls, tokens and records (or jobs) a second."""
        (t0, calls0, tokens0, done0), (t1, calls1, tokens1, done1) = self._samples[0], self._samples[-1]
        seconds = max(t1 - t0, 1e-9)
        return (calls1 - calls0) / seconds, (tokens1 - tokens0) / seconds, (done1 - done0) / seconds

    def eta(self) -> str:
        whole = self._stats.target or self._jobs
        _, _, rate = self.rates()
        if whole is None or rate <= 0:
            return "ETA unknown"
        return f"ETA {duration(max(0.0, whole - self._done) / rate)}"

    def status(self) -> list[str]:
        """What the teachers say of themselves, where they have something to say."""
        teachers = {id(t): t for t in self._stats.teachers.values() if isinstance(t, Reporting)}.values()
        return [f"{t.name}: {words}" for t in teachers if (words := t.status)]

    def line(self) -> str:
        """One line for logs."""
        last, dropped = self._stats.stages[-1], sum((s.dropped for s in self._stats.stages), Counter[str]())
        goal = f"/{self._stats.target}" if self._stats.target else ""
        asked = f"in flight {self._stats.calls.in_flight} · {self._pace()} · " if self._stats.teachers else ""
        told = " · ".join([self.eta(), *self.status()])
        return f"kept {last.kept}{goal} · dropped {reasons(dropped)} · {asked}{told}"

    def whole(self) -> str:
        """The last line: what this process has done, and how fast."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        if not self._stats.teachers:
            first = self._stats.stages[0]
            records = first.kept + first.dropped.total()
            return f"{records:,} records in {duration(seconds)} · {records / seconds:,.0f} records/s"
        calls = self._stats.calls.calls
        return (
            f"{calls:,} calls in {duration(seconds)} · {calls / seconds:,.1f} calls/s · "
            f"{self._tokens / seconds:,.0f} tokens/s{self._spent()}"
        )

    def lines(self) -> list[str]:
        """The picture for a terminal: a line a stage, then the calls."""
        width = max(len(s.name) for s in self._stats.stages)
        rows = []
        for stage in self._stats.stages:
            goal = f"/{self._stats.target}" if self._stats.target and stage is self._stats.stages[-1] else ""
            kept = f"{stage.kept}{goal}"
            rows.append(
                f"  {stage.name:<{width}}  jobs {stage.jobs:>6}  kept {kept:>9}  dropped {reasons(stage.dropped)}"
            )
        asked = f"in flight {self._stats.calls.in_flight} · {self._stats.calls.calls:,} calls · {self._pace()} · "
        rows.append(f"  {asked if self._stats.teachers else ''}{self.eta()}")
        return rows + [f"  {words}" for words in self.status()]

    def _pace(self) -> str:
        calls, tokens, _ = self.rates()
        return f"{calls:,.1f} calls/s · {tokens:,.0f} tokens/s{self._spent()}"

    def _spent(self) -> str:
        return "" if self._stats.budget is None else f" · {self._stats.budget.status()}"


def reasons(dropped: Counter[str], most: int = 4) -> str:
    """`12 (rouge:near_duplicate 8, parse:list 4)`."""
    dropped = +dropped
    if not dropped:
        return "0"
    named = [f"{reason} {n}" for reason, n in sorted(dropped.items(), key=lambda item: (-item[1], item[0]))]
    more = f", {len(named) - most} more reasons" if len(named) > most else ""
    return f"{dropped.total()} ({', '.join(named[:most])}{more})"


def duration(seconds: float) -> str:
    """`42s`, `3m10s`, `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
