"""Tables of several models: as Markdown, as JSON, and in a student's folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kdaug.errors import ConfigError
from kdaug.train import comparison
from kdaug.train.comparison import Figure, Row, Table

TABLE = Table(
    "Held-out records",
    "alpaca (test)",
    [
        Row("models/a|b", {"nll": Figure(3.35, 3.2, 3.5, 20), "top1": Figure(0.381, 0.35, 0.412, 20)}),
        Row("smollm2", {"nll": Figure(2.1, 2.0, 2.2, 20)}, "teacher"),
    ],
    "20 records.",
    ["something is off"],
)


def test_a_table_reads_as_people_read_it() -> None:
    assert TABLE.markdown().splitlines() == [
        "### Held-out records: `alpaca (test)`",
        "",
        "| Model | NLL / token ↓ | top-1 agreement ↑ |",
        "|---|---:|---:|",
        r"| `models/a\|b` | 3.350 [3.200, 3.500] | 38.1 % [35.0, 41.2] |",
        "| `smollm2` (teacher) | 2.100 [2.000, 2.200] | – |",
        "",
        "20 records.",
        "",
        "**Beware**: something is off",
    ]


def test_it_is_written_by_its_ending(tmp_path: Path) -> None:
    comparison.write([TABLE], tmp_path / "new" / "table.md")
    comparison.write([TABLE], tmp_path / "table.json")
    assert (tmp_path / "new" / "table.md").read_text() == TABLE.markdown() + "\n"
    (plain,) = json.loads((tmp_path / "table.json").read_text())
    assert plain["rows"][0]["figures"]["nll"] == {"value": 3.35, "low": 3.2, "high": 3.5, "n": 20}
    with pytest.raises(ConfigError, match=r"table\.html: give a name that ends in \.md or \.json"):
        comparison.write([TABLE], tmp_path / "table.html")


def test_a_students_folder_keeps_one_table_of_a_kind(tmp_path: Path) -> None:
    assert comparison.read(tmp_path) == []
    other, newer = replace(TABLE, data="evol (test)"), replace(TABLE, about="21 records.")
    comparison.remember(tmp_path, [TABLE])
    comparison.remember(tmp_path, [other])
    comparison.remember(tmp_path, [newer])
    assert comparison.read(tmp_path) == [other, newer]
