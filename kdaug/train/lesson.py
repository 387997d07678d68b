"""What a student is distilled on: a document, and how its teacher's view of it is found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdaug.chat import Chat
from kdaug.errors import ConfigError
from kdaug.logprobs import Place
from kdaug.record import Messages, Record
from kdaug.train.batching import Document, Encoded, encode, of_kind
from kdaug.train.origin import origin_of


@dataclass(frozen=True, slots=True)
class View:
    """The teacher's view of the first `tokens` trained tokens of a document, and where a run keeps it."""

    place: Place
    tokens: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """A document with its prompt. `number`: its place in the data; None for what the student has written itself.
    `view`: what a run has kept of the teacher, if it has."""

    document: Document
    prompt: Messages
    number: int | None = None
    view: View | None = None


def lessons_of(data: Any, chat: Chat, length: int) -> tuple[list[Lesson], list[Record], Encoded]:
    """Completion records, those that have anything to train, as lessons. Raises what `encode` raises."""
    records = list(of_kind(data, "completion", "train"))
    encoded = replace(encode(records, "completion", chat, length), origin=origin_of(data, "train"))
    by_id = {record.id: record for record in records}
    kept = [by_id[id] for id in encoded.records]
    documents = (document for (document,) in encoded.documents)
    return [Lesson(d, r.prompt, n) for n, (d, r) in enumerate(zip(documents, kept, strict=True))], kept, encoded


def run_of(source: str | Path) -> Path:
    """The run folder that is, or holds, what data were read from. Raises ConfigError where there is none."""
    for folder in (Path(source), Path(source).parent):
        if source and (folder / "journal.sqlite").is_file():
            return folder
    which = f"{source} lies in no run folder" if source else "records alone do not say which run they are of"
    raise ConfigError(f"{which}: name that run, whose log-probabilities are used (run, --run), or a teacher")
