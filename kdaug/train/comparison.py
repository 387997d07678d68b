"""Figures of several models side by side: as a Markdown table, as JSON, and in the folders of the students among them.

models/alpaca/evaluation.jsonl    a line a table; measured again in the same way on the same data, it is replaced
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kdaug.card import cell, code
from kdaug.errors import ConfigError
from kdaug.train.checkpoint import replacing

EVALUATION = "evaluation.jsonl"

# Of each figure: its heading, whether more is better, and whether it is a share.
HEADINGS: Mapping[str, tuple[str, bool, bool]] = {
    "nll": ("NLL / token", False, False),
    "kl": ("KL(teacher‖student)", False, False),
    "top1": ("top-1 agreement", True, True),
    "exact_match": ("exact match", True, True),
    "answer": ("right answers", True, True),
    "rouge_l": ("ROUGE-L", True, False),
    "choice": ("choice, by sum", True, True),
    "choice_norm": ("choice, by mean per character", True, True),
    "win_rate": ("win rate", True, True),
    "wins": ("wins", True, True),
    "ties": ("ties", False, True),
    "losses": ("losses", False, True),
}
NEUTRAL = ("ties",)


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value, its 95 % interval where there is one, and over how many cases it was taken."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A model (as it was named), what it is beside the others ("teacher", or nothing), and its figures."""

    model: str
    figures: Mapping[str, Figure]
    role: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """What was measured, on which data, of whom. `about` says how; `notes` what to beware of."""

    title: str
    data: str
    rows: Sequence[Row]
    about: str = ""
    notes: Sequence[str] = field(default=())

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row.figures))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Table:
        rows = [
            Row(row["model"], {name: Figure(**figure) for name, figure in row["figures"].items()}, row["role"])
            for row in plain["rows"]
        ]
        return cls(plain["title"], plain["data"], rows, plain["about"], plain["notes"])

    def markdown(self) -> str:
        """Intervals stand in brackets; a dash where a figure does not apply."""
        heads = [_heading(name) for name in self.columns]
        lines = [
            f"### {cell(self.title)}: {code(self.data)}",
            "",
            f"| Model | {' | '.join(heads)} |",
            "|---|" + "---:|" * len(heads),
            *(f"| {_named(row)} | {' | '.join(_shown(name, row) for name in self.columns)} |" for row in self.rows),
        ]
        if self.about:
            lines += ["", self.about]
        for note in self.notes:
            lines += ["", f"**Beware**: {note}"]
        return "\n".join(lines)


def markdown(tables: Iterable[Table]) -> str:
    return "\n\n".join(table.markdown() for table in tables)


def to_json(tables: Iterable[Table]) -> str:
    return orjson.dumps([table.to_json() for table in tables], option=orjson.OPT_INDENT_2).decode()


def write(tables: Sequence[Table], file: Path) -> None:
    """As Markdown or JSON, by its ending. Raises ConfigError for another ending, or where it cannot be written."""
    check_ending(file)
    text = to_json(tables) if file.suffix == ".json" else markdown(tables)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"cannot write {file}: {e.strerror}") from e


def check_ending(file: Path) -> None:
    """Raises ConfigError unless `write` knows what to write there: asked before anything is measured."""
    if file.suffix not in (".md", ".json"):
        raise ConfigError(f"{file}: give a name that ends in .md or .json")


def remember(folder: Path, tables: Sequence[Table]) -> None:
    """Adds tables to a student's folder; each takes the place of an earlier one of its title and data."""
    new = {(table.title, table.data): table for table in tables}
    kept = [table for table in read(folder) if (table.title, table.data) not in new]
    with replacing(folder / EVALUATION) as tmp:
        tmp.write_bytes(b"".join(orjson.dumps(table.to_json()) + b"\n" for table in [*kept, *new.values()]))


def read(folder: Path) -> list[Table]:
    """The tables that a student's folder holds; none where it was not evaluated."""
    file = folder / EVALUATION
    return [Table.from_json(orjson.loads(line)) for line in file.read_bytes().splitlines()] if file.is_file() else []


def _heading(name: str) -> str:
    title, more, _ = HEADINGS.get(name, (name, True, False))
    arrow = "" if name in NEUTRAL or name not in HEADINGS else " ↑" if more else " ↓"
    return cell(title) + arrow


def _named(row: Row) -> str:
    return code(row.model) + (f" ({row.role})" if row.role else "")


def _shown(name: str, row: Row) -> str:
    figure = row.figures.get(name)
    if figure is None:
        return "–"
    share = HEADINGS.get(name, ("", True, False))[2]

    def text(value: float) -> str:
        return f"{100 * value:.1f}" if share else f"{value:.3f}"

    interval = "" if figure.low is None or figure.high is None else f" [{text(figure.low)}, {text(figure.high)}]"
    return text(figure.value) + (" %" if share else "") + interval
