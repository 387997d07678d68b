"""The dataset folder: what is written is what is read, by us and by `datasets`, in equal bytes, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow.parquet import ParquetFile

from kdaug import dataset
from kdaug.card import Counts
from kdaug.dataset import Dataset, split_of, write_dataset
from kdaug.dropped import Dropped, read_dropped, write_dropped
from kdaug.errors import ConfigError, KdaugError
from kdaug.export import export
from kdaug.read import read
from kdaug.record import Message, Record, ToolCall, assistant, system, user


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps what it loads there, and not in the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text("abc_:./", min_size=1, max_size=6)
calls = st.builds(ToolCall, texts, texts, texts)
messages = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant", "tool"]),
        texts,
        st.lists(calls, max_size=2).map(tuple),
        st.none() | texts,
    ),
    max_size=3,
).map(tuple)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(texts, values, max_size=3)
lineage = st.lists(names, max_size=3).map(tuple)


@st.composite
def any_record(draw: st.DrawFn) -> Record:
    kind = draw(st.sampled_from(["prompt", "completion", "preference", "unpaired"]))
    return Record(
        prompt=draw(messages),
        completion=None if kind == "prompt" else draw(messages),
        rejected=draw(messages) if kind == "preference" else None,
        label=draw(st.booleans()) if kind == "unpaired" else None,
        tools=tuple(draw(st.lists(objects, max_size=2))),
        scores=draw(st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=3)),
        parents=draw(lineage),
        roots=draw(lineage),
        by=draw(names),
        teachers=draw(lineage),
        replies=draw(lineage),
        meta=draw(objects),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_record(), min_size=1, max_size=8))
def test_every_record_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, records: list[Record]) -> None:
    folder = tmp_path_factory.mktemp("any") / "dataset"
    counts = write_dataset(folder, lambda: records, facts={})
    back = list(Dataset(folder).records())
    assert counts.total == len(back) == len(records)
    for kind in Dataset(folder).kinds:
        assert [r for r in back if r.kind == kind] == [r for r in records if r.kind == kind]


def answers(number: int, start: int = 0) -> list[Record]:
    return [
        Record(prompt=user(f"q{i}"), completion=assistant(f"a{i}"), scores={"judge": i / 2} if i % 2 else {})
        for i in range(start, start + number)
    ]


def pairs(number: int) -> list[Record]:
    return [
        Record(prompt=(*system("Be kind."), *user(f"p{i}")), completion=assistant("good"), rejected=assistant("bad"))
        for i in range(number)
    ]


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_datasets_loads_every_kind_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "SHARD_ROWS", 4)
    folder = tmp_path / "run" / "dataset"
    records = [
        *answers(9),
        *pairs(2),
        Record(prompt=user("alone")),
        Record(prompt=user("u"), completion=assistant("v"), label=False),
    ]
    held_out = {records[0].id, records[3].id}
    counts = write_dataset(folder, lambda: records, held_out=held_out, facts={})
    assert counts.splits == {
        "prompt": {"train": 1},
        "completion": {"train": 7, "test": 2},
        "preference": {"train": 2},
        "unpaired": {"train": 1},
    }
    ours = Dataset(tmp_path / "run")
    assert ours.counts == counts.splits and len(ours) == 13
    assert [f.name for f in ours.files("completion", "train")] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    default = ours.to_hf()
    assert {split: len(part) for split, part in default.items()} == {"train": 7, "test": 2}
    assert default["test"][0]["prompt"] == [{"role": "user", "content": "q0"}]
    assert default["test"]["id"][:] == [records[0].id, records[3].id]
    assert default["train"][0]["scores"] == {"judge": 0.5} and default["train"][1]["scores"] is None
    assert ours.to_hf("unpaired")["train"][0]["label"] is False
    assert ours.to_hf("preference")["train"].column_names[:4] == ["id", "prompt", "chosen", "rejected"]


def test_tools_reach_a_chat_template_as_it_wants_them(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    called = Message("assistant", "", (ToolCall("c1", "add", '{"a": 1}'),))
    record = Record(
        prompt=(*user("1+1?"), called, Message("tool", "2", (), "c1")), completion=assistant("2"), tools=(tool,)
    )
    write_dataset(tmp_path / "d", lambda: [record, *answers(1)], facts={})
    rows = Dataset(tmp_path / "d").to_hf()["train"]
    assert json.loads(rows[0]["tools"]) == [tool] and rows[1]["tools"] is None
    assert rows[0]["prompt"][1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}


def test_equal_records_give_equal_bytes_whenever_and_wherever(tmp_path: Path) -> None:
    for place in ("a", "deeper/b"):
        write_dataset(tmp_path / place, lambda: iter([*answers(2500), *pairs(3)]), facts={"command": "kdaug run"})
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "deeper" / "b")


def test_a_column_that_only_late_records_need_is_in_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "SHARD_ROWS", 1000)
    late = Record(
        prompt=user("what is on?"),
        completion=(Message("assistant", "", (ToolCall("1", "programme", "{}"),)),),
        tools=({"type": "function", "function": {"name": "programme"}},),
        scores={"judge": 4.0},
    )
    records = [*answers(2500), late]
    counts = write_dataset(tmp_path / "d", lambda: records, held_out=[records[7].id], facts={})
    ours = Dataset(tmp_path / "d")
    assert counts.splits == ours.counts == {"completion": {"train": 2500, "test": 1}}
    columns = {tuple(ParquetFile(file).schema_arrow.names) for file in ours.files()}
    assert len(ours.files()) == 4 and len(columns) == 1 and "tools" in columns.pop()
    assert list(ours.records()) == [*records[:7], *records[8:], records[7]]


def test_a_split_is_disjoint_by_seed() -> None:
    seeds = [Record(prompt=user(f"seed {i}")) for i in range(3)]
    held_out = {seeds[0].id, seeds[1].id}
    assert split_of(seeds[2], held_out) == "train"
    assert split_of(seeds[0], held_out) == "test"
    assert split_of(seeds[0].child(seeds[1], by="x", prompt=user("new")), held_out) == "test"
    assert split_of(seeds[0].child(seeds[2], by="x", prompt=user("new")), held_out) is None


def test_a_record_of_both_sides_is_left_out_and_counted(tmp_path: Path) -> None:
    seeds = answers(2)
    mixed = seeds[0].child(seeds[1], by="x", prompt=user("new"))
    counts = write_dataset(tmp_path / "d", lambda: [*seeds, mixed], held_out=[seeds[0].id], facts={})
    assert counts == Counts({"completion": {"train": 1, "test": 1}}, {}, {"holdout:mixed": 1}, unsaid=2)
    assert list(Dataset(tmp_path / "d").records()) == [seeds[1], seeds[0]]  # train, then test
    assert "| dataset | `holdout:mixed` | 1 |" in (tmp_path / "d" / "README.md").read_text()


def test_an_interrupted_write_leaves_the_old_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    write_dataset(folder, lambda: answers(3), facts={})
    before = bytes_of(folder)

    def dies_while_writing() -> Iterator[Record]:
        for i, record in enumerate(answers(5000)):
            if i == 4000:
                raise KeyboardInterrupt
            yield record

    with pytest.raises(KeyboardInterrupt):
        write_dataset(folder, dies_while_writing, facts={})
    assert bytes_of(folder) == before
    (tmp_path / ".dataset.new" / "data").mkdir(parents=True)  # as a killed process leaves it
    (tmp_path / ".dataset.old").mkdir()
    write_dataset(folder, lambda: answers(1), facts={})
    assert len(Dataset(folder)) == 1
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["dataset"]


def test_the_old_dataset_is_never_lost_before_the_new_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dataset"
    write_dataset(folder, lambda: answers(3), facts={})
    before, rename = bytes_of(folder), Path.rename

    def dies(source: Path, target: Path) -> Path:
        if source.name == ".dataset.new":
            raise KeyboardInterrupt
        return rename(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", dies)
        write_dataset(folder, lambda: answers(1), facts={})
    assert not folder.exists() and bytes_of(tmp_path / ".dataset.old") == before
    with pytest.raises(KeyError):
        write_dataset(folder, lambda: {}["nothing"], facts={})
    assert bytes_of(folder) == before


def test_a_folder_with_other_things_in_it_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        write_dataset(tmp_path / "mine", lambda: answers(1), facts={})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KdaugError, match="cannot write the dataset"):
        write_dataset(tmp_path / "file" / "dataset", lambda: answers(1), facts={})
    with pytest.raises(KdaugError, match="cannot write"):
        write_dropped(tmp_path / "file" / "dropped.parquet", [])


def test_records_that_change_between_the_passes_are_a_bug_that_shows(tmp_path: Path) -> None:
    late = answers(1)[0].scored(late=1.0)  # a column that the first 1,000 have not: so there is a second pass
    passes: Iterable[list[Record]] = iter([[*answers(1000), late], [*answers(999), late]])
    with pytest.raises(ValueError, match="second time"):
        write_dataset(tmp_path / "d", lambda: next(iter(passes)), facts={})
    assert not (tmp_path / "d").exists()


def test_an_empty_dataset_says_so(tmp_path: Path) -> None:
    counts = write_dataset(tmp_path / "d", list, facts={})
    empty = Dataset(tmp_path / "d")
    assert counts.total == len(empty) == 0 and list(empty.records()) == [] and "empty" in repr(empty)
    assert "**This dataset is empty**" in (tmp_path / "d" / "README.md").read_text()
    with pytest.raises(ConfigError, match="is empty"):
        empty.to_hf()


def test_what_is_no_dataset_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        Dataset(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"README\.md and data/"):
        Dataset(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="finish it first"):
        Dataset(tmp_path)
    write_dataset(tmp_path / "d", lambda: answers(1), facts={})
    with pytest.raises(ConfigError, match="holds no preference records, only completion"):
        list(Dataset(tmp_path / "d").records("preference"))


def exported(tmp_path: Path, record: Record, format: str) -> dict[str, object]:
    path = tmp_path / "out.jsonl"
    assert export([record], path, format, kinds=[record.kind]) == 1  # type: ignore[arg-type]
    return json.loads(path.read_text())


def test_formats_hold_what_their_readers_expect(tmp_path: Path) -> None:
    one = Record(prompt=user("Add.\n\n1 2"), completion=assistant("3"), meta={"instruction": "Add.", "input": "1 2"})
    assert exported(tmp_path, one, "alpaca") == {"instruction": "Add.", "input": "1 2", "output": "3"}
    evolved = one.child(by="x", prompt=user("Add twice."))  # its old halves say nothing of the new text
    assert exported(tmp_path, evolved, "alpaca") == {"instruction": "Add twice.", "input": "", "output": "3"}
    assert exported(tmp_path, one, "sharegpt") == {
        "conversations": [{"from": "human", "value": "Add.\n\n1 2"}, {"from": "gpt", "value": "3"}]
    }
    turns = [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}]
    assert exported(tmp_path, one, "messages") == exported(tmp_path, one, "openai-jsonl") == {"messages": turns}
    assert exported(tmp_path, one, "trl") == {"prompt": turns[:1], "completion": turns[1:]}
    (pair,) = pairs(1)
    assert exported(tmp_path, pair, "openai-jsonl") == {
        "input": {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "p0"}]},
        "preferred_output": [{"role": "assistant", "content": "good"}],
        "non_preferred_output": [{"role": "assistant", "content": "bad"}],
    }
    assert set(exported(tmp_path, pair, "trl")) == {"prompt", "chosen", "rejected"}


@pytest.mark.parametrize("format", ["messages", "alpaca", "sharegpt", "trl", "openai-jsonl"])
def test_what_is_exported_reads_back_as_the_same_text(tmp_path: Path, format: str) -> None:
    long = Record(
        prompt=(*system("Be brief."), *user("Hello"), *assistant("Hi."), *user("And now?")),
        completion=assistant("Bye."),
    )
    write_dataset(tmp_path / "d", lambda: [*answers(3), long], facts={})
    assert Dataset(tmp_path / "d").export(tmp_path / "new" / "out.jsonl", format) == 4  # type: ignore[arg-type]
    assert [r.id for r in read(tmp_path / "new" / "out.jsonl")] == [r.id for r in Dataset(tmp_path / "d").records()]


def test_an_export_that_would_lose_or_mix_something_is_refused(tmp_path: Path) -> None:
    everything = [*answers(3), *pairs(2)]
    write_dataset(tmp_path / "d", lambda: everything, held_out=[everything[0].id], facts={})
    ours, out = Dataset(tmp_path / "d"), tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match="completion and preference records: name the kind"):
        ours.export(out, "trl")
    with pytest.raises(ConfigError, match="splits train and test: name the one"):
        ours.export(out, "trl", kind="completion")
    with pytest.raises(ConfigError, match="alpaca cannot hold preference records; choose trl or openai-jsonl"):
        ours.export(out, "alpaca", kind="preference")
    with pytest.raises(ConfigError, match="no export format 'csv'; there are messages, alpaca"):
        ours.export(out, "csv", kind="preference")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no split 'test'"):
        ours.export(out, "trl", kind="preference", split="test")
    called = Record(prompt=user("q"), completion=(Message("assistant", "", (ToolCall("1", "f", "{}"),)),))
    with pytest.raises(ConfigError, match="it has tools"):
        export([*answers(2), called], out, "sharegpt", kinds=["completion"])
    assert not out.exists() and not list(tmp_path.glob(".out*"))
    assert ours.export(out, "trl", kind="completion", split="test") == 1


def test_a_run_that_kept_nothing_says_so(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d" / "dataset", list, facts={})
    with pytest.raises(ConfigError, match="d/dataset holds no record at all"):
        Dataset(tmp_path / "d").files(split="train")
    (tmp_path / "d" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"the run \S+/d kept no record: `kdaug show \S+/d` says what became"):
        Dataset(tmp_path / "d").files(split="train")


def test_dropped_records_come_back_with_reason_and_evidence(tmp_path: Path) -> None:
    drops = [
        Dropped("respond", 3, answers(1)[0], "rouge:near", {"twin": "abc", "score": 0.9}),
        Dropped("respond", 4, None, "teacher:refused"),
    ]
    for name in ("a", "b"):
        assert write_dropped(tmp_path / name, iter(drops)) == 2
    assert list(read_dropped(tmp_path / "a")) == drops
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert write_dropped(tmp_path / "a", []) == 0 and list(read_dropped(tmp_path / "a")) == []


def test_two_datasets_with_one_cache_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Nor is one that has grown since: `datasets` knows a folder by its name and its card alone."""
    import datasets

    def loaded(run: str, *texts: str) -> list[str]:
        made = [Record(prompt=user(text), completion=assistant("Yes.")) for text in texts]
        write_dataset(tmp_path / run / "dataset", lambda: made, facts={})
        rows = datasets.load_dataset(str(tmp_path / run / "dataset"), cache_dir=str(tmp_path / "shared"), split="train")
        return [row["prompt"][0]["content"] for row in rows]

    assert loaded("a", "one") == ["one"]
    assert loaded("b", "two") == ["two"]
    assert loaded("a", "one", "six") == ["one", "six"]
