"""From a teacher's free text to what its prompt asked for: lists, instances, yes or no.

A parser takes what real models write: chatter before the answer, bold, bullets, other numbering than asked for. It
returns what it found, perhaps nothing; its caller decides whether nothing is a `ParseError`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

# What may stand before a label: list marks, headings, bold, an escape.
_MARKS = r"[\s>#*_`\-•]*"
# "9. ", "9) ", "(9) ", "**9.** ", "9\. ", "9.Write", and "9. 9. " from small models; not "3.5 litres".
_NUMBERED = re.compile(rf"^{_MARKS}(?:\(?(\d{{1,3}})\s*\\?[.):](?!\d)[*_]*\s*){{1,2}}")
# "Task 9: ", "### Instruction #9", "Task 9 - ".
_NAMED = re.compile(rf"^{_MARKS}(?:task|instruction)\s*#?(\d{{1,3}})\b[*_]*\s*(?:[.):–—-][*_]*\s*|$)", re.IGNORECASE)
_BULLET = re.compile(r"^\s*[-*•–]\s+")
# Labels that models put before a task ("9. Instruction: ...") …
_TASK_LABEL = re.compile(r"^(?:task|instruction)s?\s*(?:#?\d+\s*)?:\s*", re.IGNORECASE)
# … and those that open something that is not the task any more.
_FIELDS = "input|output|answer|response|example|solution|explanation"
_FIELD_LINE = re.compile(rf"^{_MARKS}(?:{_FIELDS})s?\b[^:\n]{{0,20}}:", re.IGNORECASE)
_BOLD = re.compile(r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def numbered_list(text: str, first: int = 1) -> list[str]:
    """The items of a list, each on one line; bullets count where nothing is numbered.

    An item ends at the next number, at a blank line or where its input or answer begins. A reply that goes on from a
    number at the end of its prompt lacks that number: text before item `first + 1` is item `first`.
    """
    lines = text.split("\n")
    if any(_number(line) for line in lines):
        return _items(lines, first)
    return [item for line in lines if _BULLET.match(line) and (item := _clean(_BULLET.sub("", line)))]


def _number(line: str) -> re.Match[str] | None:
    return _NUMBERED.match(line) or _NAMED.match(line)


def _items(lines: list[str], first: int) -> list[str]:
    found: list[list[str]] = []
    lead: list[str] = []  # what stands before the first number
    open_ = False
    for line in lines:
        if number := _number(line):
            if not found and int(number[1]) == first + 1 and not _chatter(lead):
                found.append(lead)
            found.append([line[number.end() :]])
            open_ = True
        elif not found:
            lead.append(line)
        elif _FIELD_LINE.match(line) or (not line.strip() and "".join(found[-1]).strip()):
            open_ = False  # a blank line between a bare "Task 9:" and its text ends nothing
        elif open_:
            found[-1].append(line)
    return [item for piece in found if (item := _clean(" ".join(piece)))]


def _chatter(lead: list[str]) -> bool:
    text = one_line(" ".join(lead))
    return not text or text.endswith(":")


def _clean(item: str) -> str:
    """Without bold, a label and quotes round the whole of it."""
    item = _TASK_LABEL.sub("", _BOLD.sub(r"\1", one_line(item)).strip("* "))
    if len(item) > 1 and _QUOTES.get(item[0]) == item[-1] and item[0] not in item[1:-1]:
        item = item[1:-1].strip()
    return item


def says_yes(text: str) -> bool:
    """Whether an answer starts with the word yes in one of its three casings (Self-Instruct's classification test)."""
    return re.match(r"[\s*_\"'`]*(?:yes|Yes|YES)\b", text) is not None


def labelled(text: str, *labels: str) -> tuple[str, ...] | None:
    """What stands under each of several labels ("Thoughts:", "Answer:"), which begin a line each, in bold or as a
    heading too. None where one is missing, stands there twice or out of order."""
    places: list[tuple[int, int]] = []
    for label in labels:
        found = list(_label(re.escape(label)).finditer(text))
        if len(found) != 1 or (places and found[0].start() < places[-1][1]):
            return None
        places.append(found[0].span())
    ends = [*(start for start, _ in places[1:]), len(text)]
    return tuple(text[start:end].strip() for (_, start), end in zip(places, ends, strict=True))


class Instance(NamedTuple):
    """A task's input (may be empty) and output; what the reply leaves out is empty."""

    input: str
    output: str


def _label(name: str) -> re.Pattern[str]:
    """`name:` at the start of a line, in bold or numbered too."""
    return re.compile(rf"^{_MARKS}{name}\s*#?\d*\s*[*_]*\s*:[ \t]*[*_]*[ \t]*", re.IGNORECASE | re.MULTILINE)


_CLASS_LABEL, _INPUT, _OUTPUT = _label(r"class[ _]label"), _label("input"), _label("output")
_EXAMPLE = re.compile(rf"^{_MARKS}example\s*#?\d+\s*[*_]*\s*[:.]?[ \t]*[*_]*[ \t]*", re.IGNORECASE | re.MULTILINE)
# What models write for an input that is not there.
_NOTHING = re.compile(
    r"[\W_]*(?:none|no input|n/?a|null|empty|no ?input (?:is )?(?:needed|required|necessary))?[\W_]*", re.I
)


def instances_output_first(text: str) -> list[Instance]:
    """The instances of a classification task: after each "Class label:" its first line is the output, the rest the
    input (Self-Instruct, arXiv 2212.10560, authors' code)."""
    found = []
    for piece in _CLASS_LABEL.split(text)[1:]:
        piece = piece.strip()
        label, _, rest = ("", "", piece) if _INPUT.match(piece) else piece.partition("\n")
        found.append(Instance(_input(_INPUT.sub("", rest, count=1)), label.strip(" \t*_")))
    return found


def instances_input_first(text: str) -> list[Instance]:
    """The instances of any other task: "Example N" parts with "Input:" (may be absent) and "Output:"; without such
    parts, the text is one instance if it has an "Output:" (Self-Instruct, arXiv 2212.10560, authors' code).

    A second "Input:" inside an output truncates it. A part with an input alone has an empty output.
    """
    return [instance for piece in _EXAMPLE.split(text) if (instance := _instance(piece)) is not None]


def _instance(piece: str) -> Instance | None:
    output = _OUTPUT.search(piece)
    before = piece[: output.start()] if output else piece
    given = _INPUT.search(before)
    if output is None:
        return Instance(_input(before[given.end() :]), "") if given else None
    answer = _INPUT.split(piece[output.end() :], maxsplit=1)[0]
    return Instance(_input(before[given.end() :]) if given else "", answer.strip())


def _input(text: str) -> str:
    text = text.strip()
    return "" if _NOTHING.fullmatch(text) else text


def sections(text: str, headings: Sequence[str]) -> list[str] | None:
    """What stands below each of `headings`, which come in this order, each on a line of its own (or with text behind
    its colon), in any case and markup; None where one is missing, out of order, or has nothing below it."""
    starts: list[re.Match[str]] = []
    for heading in headings:
        name = re.escape(heading.strip("# []:*"))
        line = re.compile(rf"^{_MARKS}\[?{name}\]?[*_\s]*(?:[:：]|$)[*_]*", re.IGNORECASE | re.MULTILINE)
        found = line.search(text, starts[-1].end() if starts else 0)
        if found is None:
            return None
        starts.append(found)
    ends = [start.start() for start in starts[1:]] + [len(text)]
    bodies = [text[start.end() : end].strip() for start, end in zip(starts, ends, strict=True)]
    return bodies if all(bodies) else None


class Task(NamedTuple):
    """A task of a numbered list with fields; `input` may be empty."""

    instruction: str
    input: str
    output: str


_TASK_FIELDS = re.compile(
    rf"^{_MARKS}(?:\d+\s*[.)]\s*)?(instruction|input|output)[*_]*\s*:[*_]*", re.IGNORECASE | re.MULTILINE
)
_NO_INPUT = re.compile(r"<\s*no\s*input\s*>", re.IGNORECASE)


def task_triples(text: str) -> list[Task | str]:
    """Alpaca's list: blocks between lines of `###`, each with "N. Instruction:", "N. Input:" and "N. Output:" once
    and in this order (Stanford Alpaca, authors' code). A block that lacks this form is given as its text.

    The first block goes on from the end of the prompt, so it may lack its number, and its label too. Numbers are not
    compared: a model that miscounts has done no harm.
    """
    found: list[Task | str] = []
    for place, block in enumerate(re.split(r"^\s*###\s*$|###", text, flags=re.MULTILINE)):
        if not block.strip(" \n\t.0123456789"):
            continue
        pieces = _TASK_FIELDS.split(block)
        if place == 0 and [p.lower() for p in pieces[1::2]] == ["input", "output"] and pieces[0].strip():
            pieces = ["", "instruction", *pieces]
        if pieces[0].strip() or [p.lower() for p in pieces[1::2]] != ["instruction", "input", "output"]:
            found.append(block.strip())
            continue
        instruction, given, output = (piece.strip() for piece in pieces[2::2])
        found.append(Task(instruction, "" if _NO_INPUT.search(given) else _input(given), output))
    return found
