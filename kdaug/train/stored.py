"""What a run kept of its teacher's view: a student learns from it with no teacher in memory.

A record is taught by the reply that it came from (`Record.replies`), as far as that reply's tokens are its own: all of
a verbatim answer; of one that was cut at a stop string what stands before that; nothing of one that was rewritten. What
the teacher was told besides (a guiding system message) is not told to the student: it learns to answer so by itself
(context distillation, arXiv 2209.15189).
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdaug.chat import Chat
from kdaug.errors import ConfigError, JournalError
from kdaug.journal import Journal
from kdaug.logprobs import Place
from kdaug.record import Record, spoken
from kdaug.train.batching import IGNORE, Document
from kdaug.train.lesson import Lesson, View

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

NO_REPLY = "no reply with log-probabilities"
ASKED_OTHERWISE = "the teacher was asked something else"
REWRITTEN = "the answer is not the reply"


@dataclass(frozen=True, slots=True)
class Tops:
    """What is stored of N trained tokens: `known` [N], whether it is; of the M known ones the likeliest tokens `ids`
    [M, k], their `logprobs` [M, k], and the mass `residual` [M] of all others."""

    known: Tensor
    ids: Tensor
    logprobs: Tensor
    residual: Tensor

    def to(self, device: str) -> Tops:
        return Tops(*(t.to(device) for t in (self.known, self.ids, self.logprobs, self.residual)))


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the data has a view: records, and their trained tokens. `guided`: records whose teacher saw another
    context than the student; `without`: why records have none; `top_k`: alternatives that every view has."""

    records: int
    taught: int
    tokens: int
    covered: int
    guided: int
    without: Counter[str]
    top_k: int

    def __str__(self) -> str:
        said = f"{self.taught} of {self.records} records have a stored view (top {self.top_k})"
        said += f", {self.covered / max(1, self.tokens):.1%} of the trained tokens"
        if self.guided:
            said += f"; the teacher of {self.guided} saw another context (a guiding system message, a template)"
        if self.without:
            said += "; without one, so trained as in SFT: " + ", ".join(f"{n}: {w}" for w, n in self.without.items())
        return said


class Stored:
    """The views that the run folder `run` keeps. Raises ConfigError where it keeps none."""

    def __init__(self, run: Path, chat: Chat) -> None:
        if not (run / "journal.sqlite").is_file() or not (run / "logprobs").is_dir():
            raise ConfigError(
                f"{run} keeps no log-probabilities of its teacher: have them kept with `kdaug run … --logprobs 20`, or "
                "name a --teacher that is asked while the student is trained"
            )
        try:
            self._journal = Journal.read_only(run)
        except JournalError as e:
            raise ConfigError(str(e)) from e
        self.run, self._chat = run, chat

    def teach(self, records: Iterable[Record], lessons: Sequence[Lesson]) -> tuple[list[Lesson], Coverage]:
        """Every lesson with its view, and how many have one. Raises ConfigError where none has, or where the ids are
        those of another vocabulary than the student's."""
        taught: list[Lesson] = []
        without: Counter[str] = Counter()
        guided, top_k = 0, 0
        for record, lesson in zip(records, lessons, strict=True):
            found = self._view(record, lesson.document)
            if isinstance(found, str):
                without[found] += 1
                taught.append(lesson)
                continue
            document, view, same = found
            taught.append(replace(lesson, document=document, view=view))
            guided += not same
            top_k = min(top_k or view.place.top_k, view.place.top_k)
        views = [t.view for t in taught if t.view is not None]
        covered = sum(view.tokens for view in views)
        trained = sum(t.document.trained for t in taught)
        told = Coverage(len(taught), len(views), trained, covered, guided, without, top_k)
        if not views:
            reasons = ", ".join(f"{n}: {why}" for why, n in without.items())
            raise ConfigError(f"{self.run} has no view of any of these records ({reasons}): name the run they are of")
        _log.info("%s", told)
        return taught, told

    def tops(self, lessons: Sequence[Lesson], top_k: int) -> Tops:
        """What is stored of the trained tokens of some documents, in their order."""
        import torch

        known = torch.zeros(sum(lesson.document.trained for lesson in lessons), dtype=torch.bool)
        ids, logprobs, residual, at = [torch.empty(0, top_k).long()], [torch.empty(0, top_k)], [torch.empty(0)], 0
        for lesson in lessons:
            if lesson.view is not None:
                view, n = self._journal.logprobs.read(lesson.view.place), lesson.view.tokens
                ids.append(torch.from_numpy(view.top_ids[:n, :top_k]))
                logprobs.append(torch.from_numpy(view.top_logprobs[:n, :top_k]))
                more = torch.from_numpy(view.top_logprobs[:n, top_k:]).exp().sum(-1)
                residual.append(torch.from_numpy(view.residual[:n].copy()) + more)
                known[at : at + n] = True
            at += lesson.document.trained
        return Tops(known, torch.cat(ids), torch.cat(logprobs), torch.cat(residual))

    def _view(self, record: Record, document: Document) -> tuple[Document, View, bool] | str:
        """The document, its view, and whether the teacher saw the same context; or why there is none."""
        answer = record.completion or ()
        why = NO_REPLY if len(answer) == 1 else REWRITTEN
        for key in reversed(record.replies if len(answer) == 1 else ()):
            if (found := self._journal.view(key)) is None:
                continue
            request, text, place = found
            self._check_vocabulary(place)
            if tuple(m for m in request.messages if m.role != "system") != spoken(record, "prompt"):
                why = ASKED_OTHERWISE
                continue
            stored = self._journal.logprobs.read(place)
            if text == answer[0].content:
                document = self._worded(document, record, stored.token_ids.tolist(), text)
            if tokens := _alike(_answer(document), stored.token_ids.tolist()):
                same = document.ids[: _start(document)].tolist() == stored.context_ids.tolist()
                return document, View(place, tokens), same
            why = REWRITTEN
        return why

    def _check_vocabulary(self, place: Place) -> None:
        """A server that names no tokenizer is taken at its word: the tokens of its replies are compared anyway."""
        if place.tokenizer and place.tokenizer != self._chat.digest:
            raise ConfigError(
                f"the log-probabilities in {self.run} are of another vocabulary than that of {self._chat.name}: choose "
                "a student of the teacher's family, or name the --teacher and a loss across vocabularies"
            )

    def _worded(self, document: Document, record: Record, said: list[int], text: str) -> Document:
        """The document with the tokens that the teacher said, where encoding its answer anew gives others."""
        chat, start, end = self._chat, _start(document), document.ids[-1]
        if said == _answer(document) or said[-1] not in chat.ends or end not in chat.ends:
            return document
        if chat.decode(said[:-1]) != text or chat.ask(record.prompt) != document.ids[:start].tolist():
            return document
        ids = array("i", [*document.ids[:start], *said[:-1], end])
        return Document(ids, array("i", [*[IGNORE] * (start - 1), *ids[start:], IGNORE]))


def _start(document: Document) -> int:
    """Where its answer begins: a single turn, which reaches to the end."""
    return len(document) - document.trained


def _answer(document: Document) -> list[int]:
    return document.ids[_start(document) :].tolist()


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
