"""A student's card: metadata for the Hub, terms, data, and the tables of its evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import kdaug as kd
from kdaug.dataset import write_dataset
from kdaug.errors import ConfigError
from kdaug.read import read
from kdaug.record import Record
from kdaug.train import comparison
from kdaug.train.comparison import Figure, Row, Table
from kdaug.train.model_card import base_of, is_student, rewrite_card
from kdaug.train.prune import prune
from kdaug.train.publish import is_model, push_model
from kdaug.train.sft import SFT

FAST = SFT(epochs=1, lr=3e-3, length=128, accumulate=4)


def front(folder: Path) -> dict[str, Any]:
    head = (folder / "README.md").read_text().split("---\n")[1]
    plain: dict[str, Any] = yaml.safe_load(head)
    return plain


def test_a_card_says_what_the_student_is_made_of(tiny: Path, answers: list[Record], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "alpaca"
    write_dataset(run / "dataset", lambda: answers, facts={})
    told = {"recipe": {"name": "demo", "stages": ["respond"]}, "command": "kdaug run demo", "fingerprint": "f00"}
    (run / "run.json").write_text(json.dumps({**told, "usage": "left out"}))
    out = FAST.fit(read(run), student=tiny, out=tmp_path / "student")
    card = (out / "README.md").read_text()
    about = json.loads((out / "training.json").read_text())
    assert about["data"] == {"source": str(run), "split": "train", **told}
    assert "`tiny`, trained with SFT on 24 records of `alpaca`" in card
    assert "kdaug run demo" in card and "stages:\n- respond" in card and "fingerprint `f00`" in card
    assert "![The loss](loss.png)" in card and "| `fake:echo` |" in card
    assert str(tmp_path) not in card  # no path of this machine
    # Neither hashes nor what is off, but what was said.
    listed = re.findall(r"^\| (\w+) \|", card, re.MULTILINE)
    assert {"method", "epochs", "lr", "length", "seed", "warmup"} <= {*listed}
    assert not {*listed} & {"student", "data", "steps", "lora_rank", "lora_alpha", "dora", "ema", "eval_every"}
    # The tiny base states no licence, so none is claimed; it is no model of the Hub, so none is named.
    assert front(out) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["kdaug", "sft", "knowledge-distillation"],
    }


def test_tables_come_into_the_card_and_stay_when_it_is_written_again(
    tiny: Path, answers: list[Record], tmp_path: Path
) -> None:
    out = FAST.fit(answers, student=tiny, out=tmp_path / "student")
    assert "How good it is" not in (out / "README.md").read_text()
    table = Table("Held-out records", "alpaca (test)", [Row(str(out), {"nll": Figure(1.25, 1.0, 1.5, 9)})])
    comparison.remember(out, [table])
    rewrite_card(out)
    card = (out / "README.md").read_text()
    assert "## How good it is\n\n### Held-out records: `alpaca (test)`" in card
    assert "| 1.250 [1.000, 1.500] |" in card
    assert "## Training" in card and front(out)["tags"][0] == "kdaug"
    FAST.fit(answers, student=tiny, out=out)  # finished: nothing is trained or written anew
    assert (out / "README.md").read_text() == card


@pytest.mark.parametrize(
    ("licence", "teachers", "stated"),
    [
        ("apache-2.0", ("vllm:Qwen/Qwen3-32B",), "apache-2.0"),
        ("apache-2.0", ("vllm:Qwen/Qwen3-32B", "openai:gpt-4o"), "other"),
        ("apache-2.0", ("local:nobody/knows",), None),
        (None, ("vllm:Qwen/Qwen3-32B",), None),
        ("mit", ("fake:echo",), "mit"),
    ],
)
def test_a_licence_is_stated_only_where_base_and_teachers_agree(
    tiny: Path,
    answers: list[Record],
    tmp_path: Path,
    licence: str | None,
    teachers: tuple[str, ...],
    stated: str | None,
) -> None:
    out = FAST.fit(answers, student=tiny, out=tmp_path / "student")
    about = json.loads((out / "training.json").read_text())
    base = tmp_path / "base"
    base.mkdir()
    for file in tiny.iterdir():
        (base / file.name).symlink_to(file)
    if licence:
        (base / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    about |= {"student": str(base), "teachers": list(teachers)}
    (out / "training.json").write_text(json.dumps(about))
    rewrite_card(out)
    assert front(out).get("license") == stated


def test_the_base_is_followed_to_where_it_came_from(tmp_path: Path) -> None:
    embedded = base_of("smollm2")
    assert (embedded.hub, embedded.terms.licence) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert base_of("Qwen/Qwen3-0.6B").hub == "Qwen/Qwen3-0.6B"
    folder = tmp_path / "sft"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "training.json").write_text(json.dumps({"student": "Qwen/Qwen3-0.6B"}))
    assert base_of(str(folder)).hub == "Qwen/Qwen3-0.6B"  # a student of a student
    gone = base_of(str(tmp_path / "gone" / "model"))
    assert (gone.name, gone.hub, gone.terms.known) == ("model", None, False)


def test_the_words_of_earlier_trainings_are_in_it_too(tiny: Path, answers: list[Record], tmp_path: Path) -> None:
    first = FAST.fit(answers, student=tiny, out=tmp_path / "first")
    others = [replace(answer, teachers=("vllm:Qwen/Qwen3-32B",)) for answer in answers]
    second = FAST.fit(others, student=first, out=tmp_path / "second")
    card = (second / "README.md").read_text()
    assert "| `vllm:Qwen/Qwen3-32B` | [apache-2.0]" in card and "| `fake:echo` |" in card
    assert "`tiny`, trained with SFT" in card


def test_a_teachers_licence_is_what_its_folder_states(
    tiny: Path, answers: list[Record], tmp_path: Path, make_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    teacher = make_model(tmp_path / "teacher", seed=1)
    (teacher / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    how = kd.Distill(epochs=1, length=128)
    with caplog.at_level("INFO"):
        out = how.fit(answers, student=tiny, teacher=teacher, out=tmp_path / "out")
    (said,) = [line for line in caplog.messages if line.startswith("terms: local:teacher")]
    assert said.endswith(": cc-by-4.0")
    assert "cc-by-4.0" in (out / "README.md").read_text()


def test_a_pruned_model_hands_its_base_and_licence_on(
    answers: list[Record], tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    full = make_model(tmp_path / "full", layers=4)
    (full / "training.json").write_text(json.dumps({"student": "smollm2"}))
    short = prune(full, 3, tmp_path / "short")
    assert front(short) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "tags": ["kdaug", "pruned"],
    }
    assert "with 3 of its 4 layers" in (short / "README.md").read_text()
    student = FAST.fit(answers, student=short, out=tmp_path / "student")
    assert front(student)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert front(student)["license"] == "apache-2.0"
    card = (student / "README.md").read_text()
    cut = "`short`, cut to 3 layers from `HuggingFaceTB/SmolLM2-135M-Instruct`"
    assert f"{cut}, trained with SFT" in card and f"The base model: {cut}, " in card


def test_only_a_finished_model_is_pushed(tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    assert not is_model(folder) and not is_student(folder)
    (folder / "training.json").write_text(json.dumps({"status": "running"}))
    assert is_model(folder) and not is_student(folder)
    with pytest.raises(ConfigError, match="its training is running: the same `kdaug train` goes on with it"):
        push_model(folder, "me/half")
    (folder / "training.json").write_text(json.dumps({"status": "finished"}))
    with pytest.raises(ConfigError, match="holds no weights"):
        push_model(folder, "me/half")
