"""`kdaug eval`: tables on stdout, into files and into cards; mistakes are one line, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdaug.cli import main
from kdaug.dataset import write_dataset
from kdaug.record import Record
from kdaug.train.sft import SFT

Said = pytest.CaptureFixture[str]


@pytest.fixture
def data(answers: list[Record], tmp_path: Path) -> Path:
    write_dataset(tmp_path / "alpaca", lambda: answers, held_out={a.id for a in answers[:6]}, facts={})
    return tmp_path / "alpaca"


def test_a_student_beside_its_base_and_its_teacher(
    tiny: Path, data: Path, tmp_path: Path, make_model: Callable[..., Path], capsys: Said
) -> None:
    from kdaug.read import read

    teacher = make_model(tmp_path / "teacher", seed=1)
    student = SFT(epochs=1, lr=3e-3, length=128, accumulate=2).fit(read(data), student=tiny, out=tmp_path / "student")
    before = {f.name: f.read_bytes() for f in student.iterdir() if f.name not in ("README.md", "evaluation.jsonl")}
    command = ["eval", str(student), str(tiny), "--data", str(data), "--teacher", str(teacher)]
    assert main([*command, "--to", str(tmp_path / "table.json")]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("### Held-out records: `alpaca (test)`\n\n| Model | NLL / token ↓ |")
    (table,) = json.loads((tmp_path / "table.json").read_text())
    nll = {(row["model"], row["role"]): row["figures"]["nll"]["value"] for row in table["rows"]}
    assert nll["student", ""] < nll["tiny", ""]
    assert ("teacher", "teacher") in nll
    card = (student / "README.md").read_text()
    assert said.out.strip().splitlines()[4] in card  # the student's own row
    assert str(tmp_path) not in card
    assert f"card: {student}/README.md" in said.err
    # What a resumed training looks at is as it was.
    assert before == {f.name: f.read_bytes() for f in student.iterdir() if f.name in before}
    assert not (tiny / "README.md").exists()

    assert main([*command[:2], "--data", str(data), "--json", "--no-card"]) == 0
    (plain,) = json.loads(capsys.readouterr().out)
    assert plain["rows"][0]["figures"].keys() == {"nll"}
    assert (student / "README.md").read_text() == card


def test_a_model_that_is_not_there_is_said_before_another_is_asked(
    tiny: Path, data: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    command = ["eval", str(tiny), str(tmp_path / "none"), "--tasks", str(tasks), "--metric", "exact_match"]
    assert main([*command, "--out", str(tmp_path / "asked")]) == 2
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "asked").exists()
    assert main(["eval", "fake", *command[3:]]) == 0  # a teacher by its kind alone
    assert "fake" in capsys.readouterr().out


def test_a_student_that_was_trained_on_its_test_is_told_of(
    tiny: Path, answers: list[Record], data: Path, tmp_path: Path, capsys: Said
) -> None:
    from kdaug.read import read

    student = SFT(epochs=1, length=128).fit(read(data), student=tiny, out=tmp_path / "student")
    assert main(["eval", str(student), "--data", str(data), "--split", "train"]) == 0
    said = capsys.readouterr()
    assert "warning: " in said.err and "18 records overlap with" in said.err
    assert "**Beware**" in said.out and "**Beware**" in (student / "README.md").read_text()


def test_tasks_through_a_teachers_spec_and_through_a_folder(tiny: Path, tmp_path: Path, capsys: Said) -> None:
    tasks = tmp_path / "capitals.jsonl"
    tasks.write_text('{"prompt": "Italy?", "answer": ["Rome", "Roma"]}\n{"prompt": "Spain?", "completion": "Madrid"}\n')
    arguments = ["--tasks", str(tasks), "--metric", "rouge_l", "--max-tokens", "5", "--json"]
    assert main(["eval", str(tiny), "fake:", *arguments]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in table["rows"]] == ["tiny", "fake:"]
    assert table["data"] == "capitals.jsonl" and "greedy replies of at most 5 tokens" in table["about"]
    assert all(row["figures"]["rouge_l"]["n"] == 2 for row in table["rows"])


def test_a_duel(tiny: Path, data: Path, capsys: Said) -> None:
    assert (
        main(["eval", str(tiny), "--against", "fake:", "--judge", "fake:", "--data", str(data), "--max-tokens", "4"])
        == 0
    )
    out = capsys.readouterr().out
    assert "### Win rate against fake:: `alpaca (test)`" in out
    assert "6 prompts, greedy answers of at most 4 tokens, judged by fake in both orders" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["m"], "nothing to measure by: give --data, --tasks or --lm-eval"),
        (["m", "--tasks", "t.jsonl"], "--tasks and --metric go together"),
        (["m", "--data", "{data}", "--against", "n"], "--against and --judge go together"),
        (["m", "--tasks", "t", "--metric", "choice", "--against", "n", "--judge", "fake:"], "--against needs prompts"),
        (["fake", "--against", "fake", "--judge", "fake"], "--against needs prompts to answer: give --data"),
        (["m", "--tasks", "t", "--metric", "answer", "--max-tokens", "0"], "--max-tokens 0: give a number from 1 on"),
        (
            ["m", "--data", "{data}", "--max-tokens", "9"],
            "--max-tokens is for --tasks or --against, which is not",
        ),
        (["m", "--data", "{data}", "--limit", "9"], "--limit is for --lm-eval, which is not given"),
        (["m", "--data", "{data}", "--rubric", "brevity"], "--rubric is for --against, which is not given"),
        (["m", "--lm-eval", "t", "--teacher", "n"], "--teacher is for --data, which is not given"),
        (["m", "m", "--data", "{data}"], "m is given twice"),
        (["m", "--data", "{data}", "--to", "table.html"], "table.html: give a name that ends in .md or .json"),
        (["openai:gpt-x", "--data", "{data}"], "likelihoods need the weights"),
        (["fake:", "--tasks", "no.jsonl", "--metric", "exact_match"], "no file no.jsonl"),
        (["fake:", "--lm-eval", "no.yaml"], "likelihoods need the weights"),
        (["{tiny}", "--lm-eval", "{data}"], "no task of lm-eval there"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], says: str, tiny: Path, data: Path, capsys: Said) -> None:
    assert main(["eval", *(a.format(data=data, tiny=tiny) for a in arguments)]) == 2
    said = capsys.readouterr()
    assert says in said.err and len(said.err.strip().splitlines()) == 1 and said.out == ""
