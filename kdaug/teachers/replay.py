"""An earlier run as a teacher: what it was answered is answered again, without a key, a model or a cost."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from kdaug.errors import ConfigError, TeacherError, TeacherUnavailable, Unrecorded, shorten
from kdaug.journal import Journal
from kdaug.record import text_of
from kdaug.scope import nonce_of
from kdaug.teacher import Completion, Request

DEFAULT_SLOTS = 64  # of a run that did not note how many it had


@dataclass(eq=False)
class Replay:
    """The replies and failures of a run folder (`replay:runs/x`), whatever roles and teachers it had.

    A reply is found by its request: messages, sampling and tools. Where the run asked the same several times, each
    asker gets the reply that it got then; one that asks from another place gets one of them, always the same, in
    whatever order they ask. A request that the run never made raises Unrecorded and so stops the run: what it comes
    from is not what it was.

    `name` is that of the teacher that had the `role` in the run, and every reply says whose words it is: the terms of
    the model follow, and the same recipe gives the same bytes. `concurrency` is the run's too, as the draws of a
    growing pool depend on it. In memory it takes about 300 bytes a reply. Raises ConfigError for a folder that is no
    run, or had no such role.
    """

    folder: Path
    role: str = "teacher"
    unbilled: ClassVar[bool] = True  # though its name is that of a teacher that may send bills
    raw_prompt: ClassVar[bool] = True  # what was asked so is answered so
    name: str = field(init=False)
    concurrency: int = field(init=False)
    _journal: Journal | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        with closing(Journal.read_only(self.folder)) as journal:
            self.concurrency = journal.meta("slots") or DEFAULT_SLOTS
            self.name = self._name(journal.meta("teachers") or {})

    async def open(self, state: Path) -> None:
        """Looks up where each reply stands."""
        if self._journal is not None:
            return
        self._journal = Journal.read_only(self.folder)
        self._by_place: dict[tuple[str, int], int] = {}
        self._by_request: dict[str, array[int]] = {}
        for row, key, request in self._journal.requests():
            digest = request.digest(self.name)
            stage, job, rest = key.split("/", 2)
            scope, _, occurrence = rest.rsplit("/", 2)
            # A call at the same place of the same recipe is known here by the nonce that it gets when it asks us.
            self._by_place[digest, nonce_of(f"{stage}/{job}/{scope}/{digest}/{occurrence}")] = row
            self._by_request.setdefault(digest, array("q")).append(row)

    async def generate(self, request: Request) -> Completion:
        if self._journal is None:
            raise TeacherUnavailable(f"{self.name} is not open", teacher=self.name)
        digest = request.digest(self.name)
        rows = self._by_request.get(digest)
        if rows is None:
            text = (
                f"{self.folder} has no reply to {shorten(text_of(request.messages))!r}: what is asked here differs "
                "from what that run asked, in its recipe, seeds, templates or settings"
            )
            raise Unrecorded(text, request=request, teacher=self.name)
        reply = self._journal.reply(self._by_place.get((digest, request.nonce), rows[request.nonce % len(rows)]))
        if isinstance(reply, TeacherError):
            raise reply
        return reply

    async def flush(self) -> None:
        """Nothing is held back."""

    async def aclose(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _name(self, teachers: Mapping[str, str]) -> str:
        if self.role not in teachers:
            roles = ", ".join(teachers) or "none"
            raise ConfigError(f"{self.folder} had no role {self.role!r} to replay: give role=, one of: {roles}")
        return teachers[self.role]
