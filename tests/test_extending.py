"""docs/extending.md: the method that it adds is a real one, and runs as it stands there."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from kdaug import recipes
from kdaug.cli import main
from kdaug.dataset import Dataset
from kdaug.recipe_file import load
from kdaug.record import Record, user

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "extending.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the page writes, each block where its first line says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "hints", raising=False)
    for block in (*blocks("python"), *blocks("jinja"), *blocks("yaml")):
        head, _, body = block.partition("\n")
        [name] = re.findall(r"mine/\S+", head)
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, "utf-8")
    (seeds,) = blocks("json")
    Path("mine/questions.jsonl").write_text(seeds, "utf-8")
    return tmp_path / "mine"


def test_it_runs_with_the_commands_that_the_page_gives(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (commands,) = blocks("sh")
    for line in commands.splitlines():
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
    assert "hints.temperature=0.7" in capsys.readouterr().out
    records = list(Dataset(mine.parent / "runs" / "hints"))
    assert len(records) == 4  # two hints to each of two questions
    assert {record.by for record in records} == {"hints"}
    assert sum("I have this one" in record.instruction for record in records) == 2


def test_its_test_passes(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(mine))
    found = runpy.run_path(str(mine / "test_hints.py"))
    [test] = [value for name, value in found.items() if name.startswith("test_")]
    test(tmp_path)


def test_an_entry_point_gives_it_a_short_name(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toml,) = blocks("toml")
    about = mine / "hints-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hints\nVersion: 1\n", "utf-8")
    entry = re.sub(r"\[project\.entry-points\.\"(.+)\"\]", r"[\1]", toml).replace('"', "")
    (about / "entry_points.txt").write_text(entry, "utf-8")
    monkeypatch.syspath_prepend(str(mine))
    assert [point.name for point in entry_points(group=recipes.ENTRY_POINTS)] == ["hints"]
    (mine / "short.yaml").write_text("stages: [{generator: hints}]", "utf-8")
    (stage,) = recipes.build(load(str(mine / "short.yaml")), [Record(prompt=user("one"))]).stages
    assert stage.generator.name == "hints"


def test_the_line_it_shows_is_as_those_of_recipes_py() -> None:
    (line,) = re.findall(r'`("hints": .*",)`', TEXT)
    form = re.compile(r'"(\w+)": "kdaug\.generators\.\w+:\w+",')
    lines = [found.strip() for found in (ROOT / "kdaug" / "recipes.py").read_text("utf-8").splitlines()]
    assert form.fullmatch(line)
    assert {m[1] for m in map(form.fullmatch, lines) if m} <= {*recipes.GENERATORS}
