"""Mixing: exactly so many records by weights, each at most once, and what a source cannot give is said."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from killing import data_of

import kdaug as kd
from kdaug.cli import main
from kdaug.dataset import write_dataset


def jsonl(path: Path, numbers: range, word: str = "task") -> str:
    rows = [json.dumps({"prompt": f"{word} {i}", "completion": f"answer {i}", "meta": {"i": i}}) for i in numbers]
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return str(path)


def parts_of(data: kd.Dataset) -> Counter[object]:
    return Counter(record.meta["mixed_from"] for record in data)


def test_shares_are_exact_and_nothing_comes_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = jsonl(tmp_path / "a.jsonl", range(500))
    b = jsonl(tmp_path / "b.jsonl", range(400, 900))  # 100 of its records are those of a
    out = tmp_path / "mixed"
    assert main(["mix", f"{a}=0.7", f"{b}=0.3", "--n", "101", "--out", str(out)]) == 0
    assert f"dataset: {out}" in capsys.readouterr().out
    data = kd.Dataset(out)
    assert parts_of(data) == {"a.jsonl": 71, "b.jsonl": 30}  # 70.7 and 30.3
    records = list(data)
    assert len({record.id for record in records}) == 101
    assert all(int(str(r.meta["i"])) >= 500 for r in records if r.meta["mixed_from"] == "b.jsonl")
    assert len({record.meta["mixed_from"] for record in records[:20]}) == 2  # interleaved
    card = (out / "README.md").read_text("utf-8")
    assert "| `a.jsonl` | 500 | 71 |" in card and "| `b.jsonl` | 400 | 30 |" in card


def test_a_seed_gives_the_same_data_and_another_seed_another_draw(tmp_path: Path) -> None:
    a, b = jsonl(tmp_path / "a.jsonl", range(300)), jsonl(tmp_path / "b.jsonl", range(300), "other")
    drawn = [kd.mix({a: 1, b: 2}, 90, out=tmp_path / f"{i}" / "dataset", seed=seed) for i, seed in enumerate((0, 0, 1))]
    assert parts_of(drawn[0]) == {"a.jsonl": 30, "b.jsonl": 60}
    assert data_of(tmp_path / "0") == data_of(tmp_path / "1") != data_of(tmp_path / "2")


def test_every_record_is_as_likely_as_any_other(tmp_path: Path) -> None:
    a = jsonl(tmp_path / "a.jsonl", range(20))
    times: Counter[object] = Counter()
    for seed in range(60):
        times.update(r.meta["i"] for r in kd.mix({a: 1}, 10, out=tmp_path / str(seed), seed=seed))
    assert sum(times.values()) == 600
    assert min(times[i] for i in range(20)) >= 15  # 30 on average, with a deviation of 3.9


def test_what_a_part_cannot_give_is_said_with_the_n_that_it_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = jsonl(tmp_path / "a.jsonl", range(500)), jsonl(tmp_path / "b.jsonl", range(500, 530))
    command = ["mix", f"{a}=7", f"{b}=3", "--out", str(tmp_path / "out"), "--n"]
    assert main([*command, "200"]) == 2
    said = capsys.readouterr().err
    assert "b.jsonl has 30 records that no part before it has, and its share is 60" in said
    assert "n can be 101 at most" in said  # of 101, 30.3 are b's: 30
    assert not (tmp_path / "out").exists()
    assert main([*command, "101"]) == 0
    assert len(kd.Dataset(tmp_path / "out")) == 101


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{dir}/a.jsonl", "--n", "5"], "expected DATA=WEIGHT"),
        (["{dir}/a.jsonl=x", "--n", "5"], "expected DATA=WEIGHT"),
        (["{dir}/a.jsonl=-1", "--n", "5"], "must be more than 0"),
        (["{dir}/a.jsonl=1", "{dir}/a.jsonl=2", "--n", "5"], "given twice"),
        (["{dir}/a.jsonl=1", "--n", "0"], "n is 0"),
        (["{dir}/none.jsonl=1", "--n", "5"], "no file"),
        (["{dir}/bad.jsonl=1", "--n", "1"], 'bad.jsonl:2: "prompt" is empty'),
        (["{dir}/a.jsonl=1", "--n", "5", "--out", "{dir}"], "exists and is not empty"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonl(tmp_path / "a.jsonl", range(10))
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": ""}\n', "utf-8")
    given = [argument.format(dir=tmp_path) for argument in arguments]
    out = [] if "--out" in given else ["--out", str(tmp_path / "out")]
    assert main(["mix", *given, *out]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_kinds_become_configurations_and_lineage_stays(tmp_path: Path) -> None:
    chosen = [
        kd.Record(
            prompt=kd.user(f"q{i}"),
            completion=kd.assistant("good"),
            rejected=kd.assistant("bad"),
            roots=("ab" * 12,),
            by="respond",
            teachers=("openai:gpt-4o",),
            meta={"topic": "x"},
        )
        for i in range(6)
    ]
    write_dataset(tmp_path / "pairs", lambda: chosen, facts={})
    data = kd.mix({str(tmp_path / "pairs"): 1, jsonl(tmp_path / "a.jsonl", range(9)): 1}, 10, out=tmp_path / "out")
    assert {kind: splits["train"] for kind, splits in data.counts.items()} == {"completion": 5, "preference": 5}
    pair = next(data.records("preference"))
    assert (pair.roots, pair.by, pair.teachers) == (("ab" * 12,), "respond", ("openai:gpt-4o",))
    assert pair.meta == {"topic": "x", "mixed_from": "pairs"}
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "**5 records of unknown origin**" in card and "`openai:gpt-4o` | earlier data | 5" in card
    assert len(data.to_hf("preference")["train"]) == 5
