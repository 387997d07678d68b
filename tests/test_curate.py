"""Curating: data through gates, merged, streamed, killed and resumed; what is wrong with a row is said of that row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from killing import data_of

import kdaug as kd
from kdaug.cli import main
from kdaug.dataset import write_dataset
from kdaug.dropped import Dropped, read_dropped
from kdaug.journal import Journal
from kdaug.rows import PAGE, Rows


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return str(path)


def tasks(first: int, last: int) -> list[dict[str, str]]:
    return [
        {"prompt": f"What is {i} times {i + 1}?", "completion": f"It is {i * (i + 1)}."} for i in range(first, last)
    ]


def drops(run: Path) -> list[Dropped]:
    return list(read_dropped(run / "dropped.parquet"))


def answers(data: kd.Dataset) -> list[str]:
    return [record.completion[0].content for record in data if record.completion]


def test_inputs_of_all_forms_are_merged_in_order_and_each_record_comes_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = jsonl(tmp_path / "first.jsonl", tasks(0, 400))
    second = tmp_path / "second.parquet"
    pq.write_table(pa.Table.from_pylist(tasks(300, 500)), second)
    third = tmp_path / "third.csv"
    third.write_text("instruction,output\nWhat is 1 times 2?,It is 2.\nWhat is it?,Nothing.\n", "utf-8")
    out = tmp_path / "run"
    assert main(["curate", first, str(second), str(third), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "read as alpaca" in said.err and "every row was read" in said.err
    assert "calls" not in said.err  # nothing asks a model, so none is spoken of
    kept = answers(kd.Dataset(out))
    assert kept == [task["completion"] for task in tasks(0, 500)] + ["Nothing."]
    fallen = drops(out)
    assert len(fallen) == 101 and {d.reason for d in fallen} == {"copies:copy"}
    assert all(d.record is not None and d.detail["twin"] == d.record.id for d in fallen)
    card = (out / "dataset" / "README.md").read_text("utf-8")
    assert "501 records, curated from 602 rows of `first.jsonl, second.parquet, third.csv`." in card
    assert "**501 records of unknown origin**" in card and "synthetic" not in card
    assert "license" not in card.split("---")[1]


def test_a_bad_row_is_a_drop_with_its_place_and_not_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["{broken", '{"prompt": ""}', '{"completion": "x"}', "[1]", '{"prompt": "a", "completion": 7}']
    source = jsonl(tmp_path / "data.jsonl", [*tasks(0, 3), *wrong, *tasks(3, 5)])
    with Path(source).open("ab") as file:
        file.write(b'{"prompt": "\xff"}\n')
    out = tmp_path / "run"
    assert main(["curate", source, "--out", str(out), "--quiet"]) == 0
    assert len(kd.Dataset(out)) == 5
    fallen = {str(d.detail["place"]): d for d in drops(out)}
    assert [place.rpartition(":")[2] for place in fallen] == ["4", "5", "6", "7", "8", "11"]
    assert {d.reason for d in fallen.values()} == {"read:bad_row"}
    said = [str(d.detail["wrong"]) for d in fallen.values()]
    for found, expected in zip(
        said, ["no JSON", '"prompt" is empty', '"prompt" is missing', "a list", "is a number", "0xff"], strict=True
    ):
        assert expected in found
    assert fallen[f"{source}:4"].detail["row"] == "{broken"
    assert main(["show", str(out), "data.jsonl:5"]) == 0
    story = capsys.readouterr().out
    assert f"── {source}:5" in story and '{"prompt": ""}' in story and '"prompt" is empty' in story
    assert main(["show", str(out), "data.jsonl:1"]) == 2


def test_bad_cells_of_csv_are_drops_too(tmp_path: Path) -> None:
    source = tmp_path / "data.csv"
    source.write_bytes(b'prompt,completion\na,b\nc,d,e\nf,\xff\n"g"x,h\n"",i\nj,k\n')
    data = kd.curate(source, out=tmp_path / "run", quiet=True)
    assert answers(data) == ["b", "k"]
    assert [d.detail["place"] for d in drops(tmp_path / "run")] == [f"{source}: row {n}" for n in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["{dir}/none.jsonl"], "no file"),
        (["{dir}/columns.jsonl"], "columns.jsonl:1: the fields are text, label, and no shape has them"),
        (["{dir}/empty.jsonl"], "is empty"),
        (["{dir}/good.jsonl", "--recipe", "{dir}/both.yaml"], "and no `stages` beside it"),
        (["{dir}/good.jsonl", "--recipe", "{dir}/seeds.yaml"], "seeds.yaml:1: seeds: what is curated is the data"),
        (["{dir}/good.jsonl", "--recipe", "{dir}/wrong.yaml"], "wrong.yaml:2: gates.0.rouge.treshold: unknown field"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(
    more: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonl(tmp_path / "good.jsonl", tasks(0, 3))
    jsonl(tmp_path / "columns.jsonl", [{"text": "a", "label": "b"}] * 3)
    jsonl(tmp_path / "empty.jsonl", [])
    (tmp_path / "both.yaml").write_text("gates: [rouge]\nstages: [{generator: pass}]\n", "utf-8")
    (tmp_path / "seeds.yaml").write_text("seeds: x.jsonl\ngates: [rouge]\n", "utf-8")
    (tmp_path / "wrong.yaml").write_text("gates:\n  - rouge: {treshold: 0.8}\n", "utf-8")
    assert main(["curate", *[m.format(dir=tmp_path) for m in more], "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_changed_data_or_gates_need_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = jsonl(tmp_path / "data.jsonl", tasks(0, 5)), str(tmp_path / "run")
    assert main(["curate", source, "--out", out, "--quiet"]) == 0
    (tmp_path / "elsewhere").mkdir()
    moved = Path(source).rename(tmp_path / "elsewhere" / "data.jsonl")
    assert main(["curate", str(moved), "--out", out, "--quiet"]) == 0  # the same data, whatever folder it lies in
    jsonl(moved, [*tasks(0, 4), tasks(7, 8)[0]])
    assert main(["curate", str(moved), "--out", out, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "holds the run of other data (source.holds.0: data.jsonl, " in said and "choose another --out" in said


def test_gates_are_set_in_a_file_and_a_drop_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twins = [
        {"prompt": "Name three rivers of Europe that flow north"},
        {"prompt": "Name three rivers of Europe that flow"},
    ]
    source = jsonl(tmp_path / "data.jsonl", [*twins, {"prompt": "What is a fjord?"}])
    gates, out = tmp_path / "gates.yaml", tmp_path / "run"
    gates.write_text("gates:\n  - rouge: {threshold: 0.99}\n", "utf-8")
    command = ["curate", source, "--recipe", str(gates), "--set", "rouge.threshold=0.6", "--out", str(out), "--quiet"]
    assert main(command) == 0
    [fallen] = drops(out)
    twin = next(iter(kd.Dataset(out)))
    assert fallen.record is not None and fallen.detail["twin"] == twin.id
    capsys.readouterr()
    assert main(["show", str(out), fallen.record.id]) == 0
    story = capsys.readouterr().out
    assert f'dropped: rouge:near_duplicate {{"twin": "{twin.id}", "score": 0.9' in story
    assert '"text": "Name three rivers of Europe that flow north"' in story
    assert 'the gate: {"threshold": 0.6, "on": "instruction"' in story


def test_a_gate_that_asks_pays_only_for_what_the_gates_before_it_kept(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "data.jsonl", [*tasks(0, 6), *tasks(0, 6)])
    judge = kd.Fake(lambda request: "Score: 4", concurrency=4)
    data = kd.curate(source, [kd.Heuristics(), kd.Judge(min=3)], out=tmp_path / "run", judge=judge, quiet=True)
    assert len(judge.calls) == 6 and len(data) == 6
    assert all(record.scores for record in data)
    with pytest.raises(kd.ConfigError, match="--judge"):
        kd.curate(source, [kd.Judge(min=3)], out=tmp_path / "other", quiet=True)


def test_what_a_later_stage_drops_is_told_as_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = jsonl(tmp_path / "data.jsonl", tasks(0, 3)), tmp_path / "run"
    kd.curate(source, [kd.Judge(min=3)], out=out, judge=kd.Fake(lambda request: "Score: 1"), quiet=True)
    fallen = drops(out)[0].record
    assert fallen is not None
    assert main(["show", str(out), fallen.id]) == 0
    assert "dropped: judge:" in capsys.readouterr().out


def test_records_keep_answers_scores_teachers_and_lineage(tmp_path: Path) -> None:
    ours = [
        kd.Record(
            prompt=kd.user(f"q{i}"),
            completion=kd.assistant("good"),
            rejected=kd.assistant("bad") if i % 2 else None,
            scores={"judge": float(i)},
            roots=(f"{i:024x}",),
            parents=(f"{i:024x}",),
            by="respond",
            teachers=("openai:gpt-4o",),
        )
        for i in range(4)
    ]
    write_dataset(tmp_path / "old", lambda: ours, held_out={ours[3].roots[0]}, facts={})
    data = kd.curate(tmp_path / "old", out=tmp_path / "run", quiet=True)
    assert sorted(data, key=lambda r: r.id) == sorted(ours[:3], key=lambda r: r.id)
    assert set(data.kinds) == {"completion", "preference"}
    card = (data.path / "README.md").read_text("utf-8")
    assert "`openai:gpt-4o` | earlier data | 3" in card and "unknown origin" not in card
    assert "left aside: its split test" in (tmp_path / "run" / "log.txt").read_text("utf-8")
    test = kd.curate(tmp_path / "old", out=tmp_path / "test", split="test", quiet=True)
    assert [r.id for r in test] == [ours[3].id]


def test_rows_are_held_a_page_at_a_time_and_go_to_gates_first(tmp_path: Path) -> None:
    source = Rows(jsonl(tmp_path / "data.jsonl", tasks(0, PAGE + 1)))
    live = source.start()
    pages = [live.draw(Random(0)) for _ in range(3)]
    assert [None if page is None else len(page.read()) for page in pages] == [PAGE, 1, None]
    with pytest.raises(kd.ConfigError, match="a first stage of pass, not of respond"):
        kd.Recipe(source, [kd.Stage(kd.Respond())])
    with pytest.raises(kd.ConfigError, match="holdout"):
        kd.Recipe(source, [kd.Stage(kd.Pass())], holdout=0.1)


def test_the_first_so_many_are_kept_and_a_higher_target_goes_on(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "data.jsonl", tasks(0, 600))
    assert len(kd.curate(source, out=tmp_path / "run", target=100, quiet=True)) == 100
    data = kd.curate(source, out=tmp_path / "run", target=300, quiet=True)
    assert answers(data) == [task["completion"] for task in tasks(0, 300)]


@pytest.mark.slow
def test_killed_and_resumed_it_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i % 9000} of the book {i % 9000 * 7919}"} for i in range(24_000)]
    sources = [jsonl(tmp_path / "a.jsonl", [*rows[:12_000], "{bad"]), jsonl(tmp_path / "b.jsonl", rows[12_000:])]
    command = [sys.executable, "-m", "kdaug", "curate", *sources, "--quiet", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    out, killed = tmp_path / "killed", 0
    for goal in (10, 40, 70):
        process = subprocess.Popen([*command, str(out)])
        while process.poll() is None and committed(out) < goal:
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed
    subprocess.run([*command, str(out)], check=True)
    assert len(kd.Dataset(out)) == 9000
    assert data_of(out) == data_of(tmp_path / "whole")
    assert (out / "dropped.parquet").read_bytes() == (tmp_path / "whole" / "dropped.parquet").read_bytes()


def committed(out: Path) -> int:
    """How many pages the journal has; 0 while there is none yet."""
    try:
        journal = Journal.read_only(out)
    except kd.KdaugError:
        return 0
    try:
        return journal.committed(0)
    except kd.KdaugError:
        return 0
    finally:
        journal.close()


def test_where_nothing_is_kept_the_command_says_so_by_its_code_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "gates.yaml"
    recipe.write_text("gates: [{heuristics: {min_words: 99}}]\n", "utf-8")
    data, out = jsonl(tmp_path / "data.jsonl", tasks(0, 9)), tmp_path / "run"
    assert main(["curate", data, "--recipe", str(recipe), "--out", str(out)]) == 3
    assert "no record was kept" in capsys.readouterr().err


@pytest.mark.parametrize("gate", ["api_call", "round_trip", "round_trip: {retriever: dense}"])
def test_a_gate_that_needs_seeds_says_so_before_anything(
    gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, recipe = jsonl(tmp_path / "data.jsonl", tasks(0, 3)), tmp_path / "gates.yaml"
    recipe.write_text(f"gates: [{{{gate}}}]\n" if ":" in gate else f"gates: [{gate}]\n")
    assert main(["curate", data, "--recipe", str(recipe), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "`kdaug curate` has no seeds: use it in `kdaug run RECIPE --seeds" in said
