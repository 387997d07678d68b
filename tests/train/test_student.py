"""Which student it is, and what it runs on."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import kdaug as kd
from kdaug.chat import Chat
from kdaug.device import pick_device, threads
from kdaug.errors import ConfigError
from kdaug.record import Record, assistant, user
from kdaug.train.batching import IGNORE, Document, collate
from kdaug.train.checkpoint import replacing
from kdaug.train.student import digest, load


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


@pytest.mark.parametrize("checkpointing", [False, True])
def test_states_of_all_layers_are_the_models_own_and_have_a_gradient(tiny: Path, checkpointing: bool) -> None:
    student = load(tiny, Chat.load(tiny), "cpu", "float32")
    ids = array("i", range(5, 15))
    document = Document(ids, array("i", [*ids[1:], IGNORE]))
    model = student.model.train()
    whole = model(input_ids=torch.tensor([ids.tolist()]), output_hidden_states=True).hidden_states
    expected = torch.autograd.grad(whole[1][0, :-1].square().sum(), model.model.layers[0].mlp.up_proj.weight)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    states, _, _ = student.layers(collate([[document]], 0), [0, 1, 2])
    for n, state in states.items():
        torch.testing.assert_close(state, whole[n][0, :-1])  # -1, too: the last
    found = torch.autograd.grad(states[1].square().sum(), model.model.layers[0].mlp.up_proj.weight)
    torch.testing.assert_close(found, expected)


def test_a_model_that_scores_is_no_student(tmp_path: Path, make_model: Callable[..., Path], out: Path) -> None:
    folder = make_model(tmp_path / "scorer")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(ConfigError, match=r"no language model: it scores texts \(LlamaForSequenceClassification\)"):
        load(folder, Chat.load(folder), "cpu")


def test_where_nothing_can_be_written_is_said_before_anything_is_loaded(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be (made|written)"):
        kd.SFT().fit([Record(prompt=user("a"), completion=assistant("b"))], student=tiny, out="/proc/none/here")


def test_a_model_that_is_torn_is_one_clear_line(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    folder = make_model(tmp_path / "torn")
    chat = Chat.load(folder)
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:3000])
    with pytest.raises(ConfigError, match="torn cannot be loaded"):
        load(folder, chat, "cpu")
    with pytest.raises(ConfigError, match=r"tokenizer in .*torn cannot be read"):
        Chat.load(folder)
