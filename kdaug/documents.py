"""Documents as seeds: texts and code as they are, PDF, DOCX, HTML and others by markitdown; and their pieces.

Every piece knows its file and where it stands in it: `meta.document` is `{file, start, end}` in characters of the
file's text (of what the reader made of it, where the file is no plain text), with `language` for code and `licence`
where the front matter of a text names one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from kdaug.errors import ConfigError, require, shorten
from kdaug.plain_yaml import plain_yaml
from kdaug.record import Json, Record, text_of, user
from kdaug.shapes import Garbled
from kdaug.source import WithOthers
from kdaug.words import words

PROSE = (".md", ".markdown", ".txt", ".rst", ".tex", ".org")
CODE = {
    ".py": "python",
    ".js": "javascript",
    ".ts": "typescript",
    ".java": "java",
    ".c": "c",
    ".h": "c",
    ".cpp": "c++",
    ".cc": "c++",
    ".hpp": "c++",
    ".cs": "c#",
    ".go": "go",
    ".rs": "rust",
    ".rb": "ruby",
    ".php": "php",
    ".swift": "swift",
    ".kt": "kotlin",
    ".scala": "scala",
    ".sh": "shell",
    ".sql": "sql",
    ".r": "r",
    ".jl": "julia",
    ".lua": "lua",
    ".pl": "perl",
    ".hs": "haskell",
    ".ml": "ocaml",
}
CONVERTED = (".pdf", ".docx", ".html", ".htm", ".pptx", ".xlsx", ".epub")
ENDINGS = (*PROSE, *CODE, *CONVERTED)
_DATA = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")  # a folder with one of these is a data set
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*\n+", re.DOTALL)
_BEGINNING = re.compile(r"\n(?=#{1,6} )|\f")  # a heading, or a page of a PDF
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def is_document(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


def holds_documents(folder: Path) -> bool:
    """Whether a folder has documents, and no data that is a set of records already."""
    found = {path.suffix.lower() for path in files_in(folder)}
    return bool(found.intersection(ENDINGS)) and found.isdisjoint(_DATA)


def files_in(folder: Path) -> list[Path]:
    """Its files in the order of their names, hidden ones aside."""
    inside = (path for path in folder.rglob("*") if path.is_file())
    return sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(folder).parts))


class Unreadable(ConfigError):
    """A document that cannot be read: where, and why."""

    def __init__(self, place: str | Path, wrong: str) -> None:
        super().__init__(f"{place}: {wrong}")
        self.place, self.wrong = str(place), wrong


def documents_in(source: Path) -> Iterator[tuple[str, dict[str, Json] | Garbled]]:
    """(place, row) of every document of a folder, or of the one file; a row has `document` and `meta`.

    A file of a folder that cannot be read, or has no text, is a row that says so; the one file alone that cannot be
    read is raised as `Unreadable`. A file of another kind is passed over.
    """
    for path in files_in(source) if source.is_dir() else [source]:
        if not is_document(path):
            continue
        try:
            text = _text_of(path)
        except Unreadable as e:
            if not source.is_dir():
                raise
            yield e.place, Garbled(e.wrong, "", document=True)
            continue
        name = path.relative_to(source).as_posix() if source.is_dir() else path.name
        about: dict[str, Json] = {"file": name}
        if language := CODE.get(path.suffix.lower()):
            about["language"] = language
        start = 0
        if path.suffix.lower() in PROSE and (front := _FRONT_MATTER.match(text)):
            start = front.end()
            if licence := _licence(front[1]):
                about["licence"] = licence
        about |= {"start": start, "end": len(text)}
        if text[start:].strip():
            yield str(path), {"document": text[start:], "meta": {"document": about}}
        elif source.is_dir():
            yield str(path), Garbled("it has no text", "", document=True)


def left_out(folder: Path) -> str:
    """What of a folder is no document, for a note; empty where everything is."""
    others = sorted({p.suffix.lower() or "no ending" for p in files_in(folder) if not is_document(p)})
    return f"files not read: {', '.join(others)}" if others else ""


def _text_of(path: Path) -> str:
    """A file's text as it is: what should be in none, such as NUL, is left for the gate `injection` to see."""
    try:
        return _converted(path) if path.suffix.lower() in CONVERTED else plain_text(path)
    except OSError as e:
        raise Unreadable(path, e.strerror or str(e)) from e


def plain_text(path: Path) -> str:
    """Raises Unreadable, with file and line, for what is no UTF-8; a byte-order mark is passed over."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        line = 1 + data.count(b"\n", 0, e.start)
        raise Unreadable(f"{path}:{line}", f"byte 0x{data[e.start]:02x} is no UTF-8: save the file as UTF-8") from e


def _converted(path: Path) -> str:
    require("markitdown", "documents", f"reading {path.name}")
    from markitdown import MarkItDown, MarkItDownException

    try:
        text = MarkItDown(enable_plugins=False).convert_local(path).text_content
    except MarkItDownException as e:
        wrong = f"markitdown cannot read it: {shorten(str(e), 200)}; take it out or convert it"
        raise Unreadable(path, wrong) from e
    if (
        path.suffix.lower() not in (".html", ".htm")
        and text.strip() == path.read_bytes().decode(errors="replace").strip()
    ):
        # It takes a file that is none of its kind for plain text.
        raise Unreadable(path, f"no {path.suffix} file that can be read: take it out or convert it")
    return str(text).encode(errors="replace").decode()


def _licence(front: str) -> str:
    import yaml

    try:
        said = plain_yaml(front)
    except yaml.YAMLError:
        return ""
    if not isinstance(said, Mapping):
        return ""
    return str(said.get("licence") or said.get("license") or "")


def pieces(text: str, size: int, least: int) -> list[tuple[int, int]]:
    """The spans of a text's pieces, each of at most `size` characters and, where the text is not shorter itself, of
    about `least` or more: a piece ends before a heading or a new page, else after a paragraph, a line, a sentence, a
    word."""
    spans: list[tuple[int, int]] = []
    at = 0
    while True:
        at += len(text[at : at + size]) - len(text[at : at + size].lstrip())
        if at >= len(text):
            return spans
        if not text[at : at + size].strip():  # a run of blanks longer than a piece
            continue
        end = _end_of(text, at, size, least)
        spans.append((at, at + len(text[at:end].rstrip())))
        at = end


def _end_of(text: str, at: int, size: int, least: int) -> int:
    """Where the piece that begins at `at` ends."""
    heading = _BEGINNING.search(text, at + least, at + size)
    if heading is not None and len(text) - heading.end() >= least:
        return heading.end()
    left = len(text) - at
    if left <= size:
        return len(text)
    upto = at + (left // 2 if left < size + least else size)  # no crumb is left at the end
    for mark in ("\f", "\n\n", "\n", ". ", " "):
        place = text.rfind(mark, at + min(least, upto - at) // 2 + 1, upto)
        if place > 0:
            return place + len(mark)
    return upto


@dataclass
class Chunks:
    """The pieces of each seed in turn, in order: `size` characters at most, not below `least` where that can be.

    A piece is a record of its document: its text is the prompt, and its root is the document, so no document is on
    both sides of a hold-out. `others`: so many other pieces come with each, drawn as by `with_others` from those of all
    documents on its side (a piece that says what an earlier one said is then left out).
    """

    seeds: Sequence[Record]
    size: int = 2000
    least: int = 200
    others: int = 0
    grows = False
    _left: Iterator[Record] = field(default=iter(()), init=False, repr=False)
    _among: WithOthers | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.least < self.size or self.others < 0:
            raise ConfigError(
                f"chunks: least {self.least} must be from 1 to below size {self.size}, and others at least 0"
            )

    @property
    def jobs(self) -> int:
        """At most: with `others`, pieces that say the same are one."""
        return sum(len(pieces(text_of(seed.prompt), self.size, self.least)) for seed in self.seeds)

    def start(self, held_out: Collection[str] = ()) -> Chunks:
        live = Chunks(self.seeds, self.size, self.least, self.others)
        live._left = (
            piece_of(seed, *span) for seed in self.seeds for span in pieces(text_of(seed.prompt), self.size, self.least)
        )
        if self.others:
            distinct = list({piece.id: piece for piece in live._left}.values())
            live._among = WithOthers(distinct, self.others).start(held_out)
        return live

    def draw(self, rng: Random) -> tuple[Record, ...] | None:
        if self._among is not None:
            return self._among.draw(rng)
        piece = next(self._left, None)
        return None if piece is None else (piece,)

    def accept(self, record: Record) -> None:
        pass


@dataclass
class Snippets:
    """One snippet of each code file: from a line drawn evenly, `1` to `most` lines in a row (OSS-Instruct, arXiv
    2312.02120, §2.1). `quotas`: how many of a language at most; with quotas, other languages are left out."""

    seeds: Sequence[Record]
    most: int = 15  # paper, §2.1
    quotas: Mapping[str, int] = field(default_factory=dict)
    grows = False
    _drawn: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _next: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.most < 1 or any(not isinstance(n, int) or n < 0 for n in self.quotas.values()):
            raise ConfigError("snippets: most must be at least 1, and quotas whole numbers by language")

    def start(self, held_out: Collection[str] = ()) -> Snippets:
        return Snippets(self.seeds, self.most, self.quotas)

    def draw(self, rng: Random) -> tuple[Record, ...] | None:
        while self._next < len(self.seeds):
            seed = self.seeds[self._next]
            self._next += 1
            language = str(about(seed).get("language", ""))
            if self.quotas and self._drawn.get(language, 0) >= self.quotas.get(language, 0):
                continue
            self._drawn[language] = self._drawn.get(language, 0) + 1
            lines = text_of(seed.prompt).splitlines(keepends=True)
            first = rng.randrange(len(lines))
            start = sum(map(len, lines[:first]))
            snippet = "".join(lines[first : first + rng.randint(1, self.most)])
            return (piece_of(seed, start, start + len(snippet.rstrip("\n"))),)
        return None

    def accept(self, record: Record) -> None:
        pass


def about(record: Record) -> dict[str, Any]:
    """What a record says of its document; empty where it says nothing."""
    said = record.meta.get("document")
    return dict(said) if isinstance(said, dict) else {}


def piece_of(document: Record, start: int, end: int) -> Record:
    """The characters from `start` to `end` of a document, with their place in its file."""
    said = about(document)
    offset = int(said.get("start", 0))
    return document.child(
        by="piece",
        prompt=user(text_of(document.prompt)[start:end]),
        completion=None,
        rejected=None,
        label=None,
        meta={**document.meta, "document": {**said, "start": offset + start, "end": offset + end}},
    )


def is_quoted(quote: str, document: str, least: int = 3) -> bool:
    """Whether a document holds these words in a row, `least` of them or more, whatever their case and punctuation."""
    said = words(quote)
    return len(said) >= least and f" {' '.join(said)} " in f" {' '.join(words(document))} "


def foreign_numbers(answer: str, document: str) -> list[str]:
    """The numbers of an answer that its document does not have: what a model made up most surely."""
    known = {number.replace(",", "") for number in _NUMBER.findall(document)}
    return [number for number in _NUMBER.findall(answer) if number.replace(",", "") not in known]


def support(answer: str, document: str) -> float:
    """The share of an answer's longer words (four letters or more) that stand in its document; 1 where it has none."""
    known, said = set(words(document)), [word for word in words(answer) if len(word) > 3]
    return sum(word in known for word in said) / len(said) if said else 1.0
