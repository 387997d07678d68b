"""What is said of a process that we owned."""

from __future__ import annotations

from pathlib import Path

from kdaug.teachers.owned import Log


def test_the_last_words_are_what_went_wrong(tmp_path: Path) -> None:
    log = Log(tmp_path / "engine.log")
    assert "is empty" in log.last_words()
    log.path.write_text("INFO 11-24 [importing.py:44] all is well\n", "utf-8")
    assert "all is well" in log.last_words()  # better than nothing
    with log.path.open("a", encoding="utf-8") as file:
        file.write("RuntimeError: no memory\n(Engine pid=7) WARNING 11-24 shutting down\n")
    assert log.last_words().endswith("ends with\n    RuntimeError: no memory")


def test_an_earlier_process_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "engine.log").write_text("ERROR of yesterday\n", "utf-8")
    log = Log(tmp_path / "engine.log")
    with log.path.open("a", encoding="utf-8") as file:
        file.write("ERROR of today\n")
    assert "yesterday" not in log.last_words()
