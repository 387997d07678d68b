"""Which student it is, and what it runs on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdaug.device import pick_device, threads
from kdaug.errors import ConfigError
from kdaug.train.student import digest, replacing


def test_a_student_is_known_by_its_content_not_its_path(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    one, same, other = (make_model(tmp_path / n, seed=s) for n, s in (("one", 0), ("same", 0), ("other", 1)))
    assert digest(one) == digest(same) != digest(other)
    (same / "chat_template.jinja").write_text("{{ messages }}")
    assert digest(one) != digest(same)


def test_threads_are_those_of_this_process_and_are_put_back() -> None:
    before = torch.get_num_threads()
    with threads() as count:
        assert 1 <= count <= min(before, len(os.sched_getaffinity(0)))
        assert torch.get_num_threads() == count
    assert torch.get_num_threads() == before


def test_a_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    with pytest.raises(ConfigError, match="device='cpu'"):
        pick_device("cuda:0")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_text("old")
    with pytest.raises(RuntimeError), replacing(file) as tmp:
        tmp.write_text("half of the n")
        raise RuntimeError
    assert file.read_text() == "old"
    with replacing(file) as tmp:
        tmp.write_text("new")
    assert [f.name for f in tmp_path.iterdir()] == ["state"]
    assert file.read_text() == "new"
