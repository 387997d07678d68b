"""What overlaps with a benchmark is dropped, with what it hit, before its answer is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deciding import decisions

from kdaug.cli import main
from kdaug.dropped import read_dropped
from kdaug.embedding import Embedder
from kdaug.errors import ConfigError
from kdaug.gates.decontaminate import Benchmark, Decontaminate
from kdaug.generators.pass_through import Pass
from kdaug.generators.respond import Respond
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.recipe_file import load
from kdaug.recipes import stages_in
from kdaug.record import Message, Record, assistant, user
from kdaug.running import Outcome, execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teachers.fake import Fake

QUESTIONS = [
    "A farmer has twelve hens and each of them lays three eggs a week, how many eggs does she sell in a month?",
    "A train leaves the station at nine in the morning and travels at sixty miles an hour until noon, how far is it?",
    "小明有五个苹果他吃了两个又买了三个现在还剩下几个苹果呢请回答",
]


def bench(folder: Path, rows: list[Any] | None = None) -> Path:
    path = folder / "bench.jsonl"
    rows = [{"question": q, "answer": "7"} for q in QUESTIONS] if rows is None else rows
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def gate(folder: Path, **more: Any) -> Decontaminate:
    return Decontaminate({"sums": {"data": str(bench(folder)), "columns": ["question"]}}, **more)


def test_a_hit_names_benchmark_row_column_and_the_words(tmp_path: Path) -> None:
    taken = "Solve: each of them lays THREE eggs a week, how many eggs does she... sell?"
    found = decisions(gate(tmp_path).start([]), [Record(prompt=user(taken)), Record(prompt=user("Write a poem."))])
    assert found[1] is None and found[0] is not None
    assert found[0].reason == "decontaminate:ngram"
    detail = dict(found[0].detail)
    assert (detail["benchmark"], detail["row"], detail["column"], detail["words"]) == ("sums", 1, "question", 14)
    assert detail["ngram"] == "each of them lays three eggs a week how many eggs does she sell"


def test_a_whole_item_is_told_apart_and_messages_are_looked_at_one_by_one(tmp_path: Path) -> None:
    live = gate(tmp_path).start([])
    words = QUESTIONS[1].split()
    split = (
        Message("user", " ".join(words[:11])),
        Message("assistant", "and"),
        Message("user", " ".join(words[11:21])),
    )
    system = (Message("system", QUESTIONS[1]), *user("Go on."))
    records = [
        Record(prompt=p) for p in (user(f"Q: {QUESTIONS[1]}"), split, system, user(QUESTIONS[2] + "🙂"), user(""))
    ]
    found = decisions(live, records)
    assert [d.reason if d else None for d in found] == [
        "decontaminate:whole", None, None, "decontaminate:whole", None
    ]  # fmt: skip


def test_on_says_what_is_looked_at(tmp_path: Path) -> None:
    record = Record(prompt=user("Ask me something."), completion=assistant(QUESTIONS[0]))
    hits = [decisions(gate(tmp_path, on=on).start([]), [record])[0] for on in ("prompt", "completion", "record")]
    assert [bool(hit) for hit in hits] == [False, True, True]


def test_a_near_meaning_is_a_hit_where_a_threshold_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    angles = {QUESTIONS[0]: 0.0, QUESTIONS[1]: 90.0, QUESTIONS[2]: 180.0, "near": 20.0, "far": 40.0}

    def embed(self: Embedder, texts: list[str]) -> Any:
        turned = np.deg2rad([angles[t] for t in texts])
        return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)

    monkeypatch.setattr(Embedder, "embed", embed)
    near, far = decisions(gate(tmp_path, threshold=0.9).start([]), [Record(prompt=user(t)) for t in ("near", "far")])
    assert far is None and near is not None and near.reason == "decontaminate:cosine"
    assert near.detail["row"] == 1 and near.detail["score"] == pytest.approx(0.939693, abs=1e-5)


@pytest.mark.slow
def test_a_paraphrase_is_found_by_the_real_encoder(tmp_path: Path) -> None:
    same = "A farmer owns 12 hens. Every hen lays three eggs per week. How many eggs can she sell in one month?"
    found = decisions(
        gate(tmp_path, threshold=0.8).start([]), [Record(prompt=user(t)) for t in (same, "Write a poem.")]
    )
    assert found[0] is not None and found[0].detail["row"] == 1 and found[1] is None


MISTAKES: list[tuple[Any, str]] = [
    ({}, "names no benchmark"),
    ({"sums": "bench.jsonl"}, "give data and columns"),
    ({"sums": {"data": "bench.jsonl"}}, "give data and columns"),
    ({"sums": {"data": "bench.jsonl", "columns": ["question"], "splt": "x"}}, "give data and columns"),
    ({"sums": {"data": "none.jsonl", "columns": ["question"]}}, "against.sums: no file"),
    ({"sums": {"data": "bench.jsonl", "columns": ["query"]}}, "no column 'query'; there are question, answer"),
    ({"sums": {"data": "bench.jsonl", "columns": []}}, "give the names"),
    ({"sums": {"data": "empty.jsonl", "columns": ["question"]}}, "is empty"),
    ({"sums": {"data": "blank.jsonl", "columns": ["question"]}}, "has no text in question"),
    ({"sums": {"data": "odd.jsonl", "columns": ["question"]}}, "choose another column"),
]


@pytest.mark.parametrize(("against", "says"), MISTAKES)
def test_a_benchmark_that_cannot_be_used_is_refused(
    against: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bench(tmp_path)
    for name, text in (("empty", ""), ("blank", '{"question": " "}\n'), ("odd", '{"question": {"a": 1}}\n')):
        (tmp_path / f"{name}.jsonl").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=says):
        Decontaminate(against)
    assert "\n" not in says


@pytest.mark.parametrize(
    "fields", [{"ngram": 5}, {"shortest": 0}, {"match": "fuzzy"}, {"on": "answer"}, {"threshold": 2}]
)
def test_a_field_out_of_range_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="decontaminate: "):
        gate(tmp_path, **fields)


def test_cells_may_be_numbers_lists_and_messages_and_may_be_missing(tmp_path: Path) -> None:
    rows = [{"q": 12, "c": ["a", "b"]}, {"q": None, "c": [{"role": "user", "content": "hi"}]}]
    items = Benchmark(bench(tmp_path, rows), ("q", "c")).items
    assert [tuple(item) for item in items] == [(1, "q", "12"), (1, "c", "a\nb"), (2, "c", "hi")]


def seeds() -> list[Record]:
    return [Record(prompt=user(text)) for text in ("Name a river.", QUESTIONS[0], "Name a lake.")]


def recipe(folder: Path, **more: Any) -> Recipe:
    return Recipe(Each(seeds()), [Stage(Pass(), [gate(folder, **more)]), Stage(Respond())])


def go(made: Recipe, out: Path) -> tuple[Outcome, Fake]:
    teacher = Fake()
    return execute(made, out, {"teacher": teacher}, log=Log(quiet=True)), teacher


def test_in_a_run_the_answer_to_a_benchmarks_question_is_not_asked_for(tmp_path: Path) -> None:
    outcome, teacher = go(recipe(tmp_path), tmp_path / "run")
    asked = [call.messages[-1].content for call in teacher.calls]
    assert sorted(asked) == ["Name a lake.", "Name a river."]
    [dropped] = read_dropped(tmp_path / "run" / "dropped.parquet")
    assert (dropped.reason, dropped.detail["row"]) == ("decontaminate:whole", 1)
    overlap = {"rows": 3, "texts": 3, "ngram": 13, "records": 1, "items": 1, "longest": 23}
    assert outcome.facts["stages"][0]["overlaps"] == {"sums": overlap}
    card = (tmp_path / "run" / "dataset" / "README.md").read_text("utf-8")
    assert "| 0.pass | `sums` | 3 | 13 | 1 | 1 | 23 |" in card

    again, silent = go(recipe(tmp_path), tmp_path / "run")
    assert silent.calls == [] and again.facts["stages"] == outcome.facts["stages"]


def test_the_content_of_a_benchmark_is_part_of_the_run_and_its_place_is_not(tmp_path: Path) -> None:
    first = recipe(tmp_path).fingerprint
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert recipe(other).fingerprint == first
    assert recipe(tmp_path, ngram=12).fingerprint != first
    changed = bench(other, [{"question": "Something else."}])
    moved = Decontaminate({"sums": Benchmark(changed, ["question"])})
    assert Recipe(Each(seeds()), [Stage(Pass(), [moved]), Stage(Respond())]).fingerprint != first


def test_in_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "r.yaml"
    against = f"{{sums: {{data: {bench(tmp_path)}, split: test, columns: [question]}}}}"
    written.write_text(
        "stages:\n  - generator: pass\n"
        f"    gates: [{{decontaminate: {{against: {against}}}}}]\n  - generator: respond\n"
    )
    given = tmp_path / "seeds.jsonl"
    given.write_text("".join(json.dumps({"prompt": q}) + "\n" for q in (*QUESTIONS, "Name a river.")), "utf-8")
    arguments = ["run", str(written), "--seeds", str(given), "--teacher", "fake", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(["show", str(tmp_path / "run")]) == 0
    assert "3  decontaminate:whole" in capsys.readouterr().out
    dropped = next(read_dropped(tmp_path / "run" / "dropped.parquet"))
    assert dropped.record is not None and main(["show", str(tmp_path / "run"), dropped.record.id]) == 0
    assert '"benchmark": "sums"' in capsys.readouterr().out
    written.write_text(written.read_text().replace("[question]", "[query]"))
    assert main([*arguments[:-1], str(tmp_path / "other")]) == 2
    assert "r.yaml:3" in (said := capsys.readouterr().err) and "no column 'query'" in said


def test_a_benchmark_beside_the_recipe_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    bench(mine)
    against = "{sums: {data: bench.jsonl, columns: [question]}}"
    (mine / "recipe.yaml").write_text(f"gates: [{{decontaminate: {{against: {against}}}}}]\n")
    fingerprints = []
    for here, recipe in ((tmp_path, "mine/recipe.yaml"), (mine, "recipe.yaml")):
        monkeypatch.chdir(here)
        (stage,) = stages_in(load(recipe))
        (made,) = stage.gates
        assert isinstance(made, Decontaminate) and made.against["sums"].rows == 3
        fingerprints.append(Recipe(Each([Record(prompt=user("Hi"))]), [stage]).fingerprint)
    assert fingerprints[0] == fingerprints[1]
    (mine / "recipe.yaml").write_text("gates: [{decontaminate: {against: {sums: {data: no.jsonl, columns: [a]}}}}]\n")
    with pytest.raises(ConfigError, match=r"no file no\.jsonl"):
        stages_in(load("recipe.yaml"))
