"""docs/tools.md: what it shows is read as it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from kdaug.tool_definitions import check_imports, definitions

TEXT = (Path(__file__).parent.parent / "docs" / "tools.md").read_text("utf-8")


def test_the_files_that_the_page_shows_are_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", TEXT, re.DOTALL))
    for name, text in shown.items():
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (days,) = definitions("my_tools.py")
    check_imports(shown["my_tools.py"], "my_tools.py")
    assert days.required == ("first", "last") and days.description == "Counts the days between two dates."
    (called,) = re.findall(r'ApiGen\(tools="(lookup:\w+)"\)', TEXT)
    assert [tool.name for tool in definitions(called)] == ["population", "area"]
