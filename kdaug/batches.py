"""The provider batches of a run: where they stand, and an end to those that still run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from kdaug.errors import ConfigError, TeacherError
from kdaug.progress import duration
from kdaug.teachers.batch import ENDED, Batch
from kdaug.teachers.batch_api import BatchAPI
from kdaug.teachers.batch_ledger import FILE, Ledger, Sent


def batches(run: Path, *, cancel: bool = False) -> Iterator[str]:
    """A line for every batch of a run; with `cancel`, those that run are cancelled first.

    The run may be at work meanwhile. Raises ConfigError for a folder that is no run, and for a missing key.
    """
    if not (run / "journal.sqlite").is_file():
        raise ConfigError(f"{run} is not a run folder: it has no journal.sqlite")
    found = [sent for file in sorted((run / "teachers").glob(f"*/{FILE}")) for sent in _known(file.parent)]
    if not found:
        yield f"{run} has sent no batches"
    for sent in found:
        if sent.over:
            yield _line(sent)
            continue
        try:
            yield _line(sent, *asyncio.run(_ask(sent, cancel)))
        except TeacherError as e:
            yield f"{_line(sent)}, when it was last looked at ({e})"


def _known(folder: Path) -> list[Sent]:
    ledger = Ledger(folder)
    try:
        return ledger.batches()
    finally:
        ledger.close()


async def _ask(sent: Sent, cancel: bool) -> tuple[str, ...]:
    """Brings `sent` up to date, as the provider sees it; what was done besides."""
    api = _api(sent)
    try:
        if sent.batch:
            batch = await api.insist(partial(api.retrieve, sent.batch))
        elif sent.tried and (seen := await api.insist(partial(api.find, sent.file, sent.tag))):
            batch = seen
        else:
            return ()
        done: tuple[str, ...] = ()
        if cancel and batch.status not in ENDED:
            batch, done = await api.insist(partial(api.cancel, batch.id)), ("cancelled by you",)
        sent.batch, sent.state = batch.id, batch.status
        if batch.request_counts is not None:
            sent.completed, sent.failed = batch.request_counts.completed, batch.request_counts.failed
        return done
    finally:
        await api.aclose()


def _api(sent: Sent) -> BatchAPI:
    to = sent.access
    return Batch(to.model, base_url=to.base_url, api_key_env=to.key_env, api_key_file=to.key_file or None).api()


def _line(sent: Sent, *more: str) -> str:
    """`batch_abc  gpt-x  in_progress  120 of 10,000 answered, 3 failed  planned 2h05m ago`."""
    counts = f"{sent.completed:,} of {sent.size:,} answered, {sent.failed:,} failed"
    age = f"planned {duration(time.time() - sent.planned)} ago"
    return "  ".join((sent.batch or "(not created)", sent.access.model, sent.state, counts, age, *more))
