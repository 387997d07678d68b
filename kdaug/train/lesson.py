"""What a student is distilled on: a document, and how its teacher's view of it is found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from kdaug.chat import Chat
from kdaug.dataset import Dataset, Split
from kdaug.errors import ConfigError
from kdaug.logprobs import Place
from kdaug.record import Messages, Record
from kdaug.train.batching import Document, Encoded, encode, of_kind


@dataclass(frozen=True, slots=True)
class View:
    """The teacher's view of the first `tokens` trained tokens of a document, and where a run keeps it."""

    place: Place
    tokens: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """A document, with its `prompt` where the student may answer that anew. `number`: its place in the data; None for
    what the student has written itself. `view`: what a run has kept of the teacher, if it has."""

    document: Document
    prompt: Messages = ()
    number: int | None = None
    view: View | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """The completion records of some data, but for some ids: read anew each time, never held."""

    parts: tuple[tuple[Any, Split], ...]
    but: frozenset[str]

    def __iter__(self) -> Iterator[Record]:
        every = chain.from_iterable(of_kind(data, "completion", split) for data, split in self.parts)
        return (record for record in every if record.id not in self.but)


def lessons_of(
    data: Any, chat: Chat, length: int, *, prompts: bool = True, held_out: Dataset | None = None
) -> tuple[list[Lesson], Records, Encoded]:
    """Completion records, those that have anything to train, as lessons, with their `prompts` if wanted.

    Behind these the held-out records of `held_out`: the lessons and the records have them as well, what is returned
    third has not. Raises what `encode` raises.
    """
    parts: list[tuple[Any, Split]] = [(list(data) if isinstance(data, Iterator) else data, "train")]
    if held_out is not None:
        parts.append((held_out, "test"))
    each = [
        encode(part, "completion", chat, length, split, beside=lambda record: record.prompt if prompts else ())
        for part, split in parts
    ]
    made = [pair for encoded in each for pair in zip(encoded.documents, encoded.beside, strict=True)]
    lessons = [Lesson(document, prompt, n) for n, ((document,), prompt) in enumerate(made)]
    return lessons, Records(tuple(parts), frozenset(chain.from_iterable(e.dropped for e in each))), each[0]


def run_of(source: str | Path) -> Path:
    """The run folder that is, or holds, what data were read from. Raises ConfigError where there is none."""
    for folder in (Path(source), Path(source).parent):
        if source and (folder / "journal.sqlite").is_file():
            return folder
    which = f"{source} lies in no run folder" if source else "records alone do not say which run they are of"
    raise ConfigError(f"{which}: name that run, whose log-probabilities are used (run, --run), or a teacher")
