"""Reading: every format and shape, and for what is wrong its place and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kdaug.dataset import write_dataset
from kdaug.errors import ConfigError
from kdaug.read import Seeds, read, stream
from kdaug.record import Message, Record, ToolCall, assistant, system, user
from kdaug.source import GrowingPool


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here asks the real Hub, nor fills the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def one(tmp_path: Path, row: dict[str, Any]) -> tuple[Record, Seeds]:
    seeds = read(written(tmp_path / "one.jsonl", json.dumps(row)))
    return seeds[0], seeds


def test_several_completions_of_a_prompt_are_a_record_each_with_its_score(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "completions": ["a", "b"], "scores": [3, 1], "meta": {"topic": "x"}},
        {"prompt": "Hm", "completions": [{"text": "c", "score": 2}, {"response": "d", "scores": {"judge": 0.5}}]},
        {"prompt": "Ha", "completions": ["e"]},
    ]
    records = read(written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    texts = [(r.prompt[0].content, (r.completion or ())[0].content, r.scores) for r in records]
    assert texts == [
        ("Hi", "a", {"score": 3.0}),
        ("Hi", "b", {"score": 1.0}),
        ("Hm", "c", {"score": 2.0}),
        ("Hm", "d", {"judge": 0.5}),
        ("Ha", "e", {}),
    ]
    assert records[1].meta == {"topic": "x"} and not records.notes


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        (
            {"completions": ["a", "b"], "scores": [1]},
            r'a\.jsonl:1: "scores" is a list, not a list of 2 numbers',
        ),
        ({"completions": ["a", "b"], "scores": {"judge": 1}}, r'a\.jsonl:1: "scores" is an object, not a list of 2'),
        ({"completions": [{"score": 1}]}, r'a\.jsonl:1: "completions\[0\]" has no text: give it as completion, resp'),
        ({"completions": ["a", 7]}, r'a\.jsonl:1 \(completions\[1\]\): "completion" is a number, not text'),
        ({"completions": ["a"], "scores": ["high"]}, r'\(completions\[0\]\): "scores" has text under "score"'),
    ],
)
def test_what_is_wrong_with_several_completions_is_named(tmp_path: Path, row: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        read(written(tmp_path / "a.jsonl", json.dumps({"prompt": "Hi", **row})))


CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("row", "shape", "expected"),
    [
        ({"prompt": "Hi"}, "prompt/completion", Record(prompt=user("Hi"))),
        ({"prompt": "Hi", "completion": None}, "prompt/completion", Record(prompt=user("Hi"))),
        (
            {"prompt": CHAT[:1], "completion": CHAT[1:], "meta": {"topic": "x"}},
            "prompt/completion",
            Record(prompt=user("Hi"), completion=assistant("Hello"), meta={"topic": "x"}),
        ),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            "alpaca",
            Record(prompt=user("Add.\n\n1 2"), completion=assistant("3"), meta={"instruction": "Add.", "input": "1 2"}),
        ),
        (
            {"instruction": "Add.", "input": "", "system": "Be brief.", "history": [["a", "b"]]},
            "alpaca",
            Record(
                prompt=(*system("Be brief."), *user("a"), *assistant("b"), *user("Add.")),
                meta={"instruction": "Add.", "input": ""},
            ),
        ),
        (
            {"instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}, {"input": "2 2", "output": "4"}]},
            "Self-Instruct seed tasks",
            Record(prompt=user("Add.\n\n1 2"), completion=assistant("3"), meta={"instruction": "Add.", "input": "1 2"}),
        ),
        ({"messages": CHAT}, "messages", Record(prompt=user("Hi"), completion=assistant("Hello"))),
        (
            {"messages": [*CHAT, CHAT[0]]},
            "messages",
            Record(prompt=(*user("Hi"), *assistant("Hello"), *user("Hi"))),
        ),
        (
            {
                "system": "Be kind.",
                "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
            },
            "ShareGPT",
            Record(prompt=(*system("Be kind."), *user("Hi")), completion=assistant("Hello")),
        ),
        ({"conversations": CHAT}, "ShareGPT", Record(prompt=user("Hi"), completion=assistant("Hello"))),
        (
            {"prompt": "Hi", "chosen": [*CHAT], "rejected": "No."},
            "preference",
            Record(prompt=user("Hi"), completion=assistant("Hello"), rejected=assistant("No.")),
        ),
        (
            {"prompt": "Hi", "completion": "Hello", "label": False},
            "unpaired preference",
            Record(prompt=user("Hi"), completion=assistant("Hello"), label=False),
        ),
    ],
)
def test_a_shape_is_found_by_its_fields(tmp_path: Path, row: dict[str, Any], shape: str, expected: Record) -> None:
    record, seeds = one(tmp_path, row)
    assert record == expected
    assert seeds.shape == shape and f"read as {shape}" in str(seeds)


def test_tool_calls_are_read_as_the_api_writes_them(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    turns = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "assistant", "content": "2"},
    ]
    record, _ = one(tmp_path, {"messages": turns, "tools": json.dumps([{"type": "function"}])})
    assert record.prompt[1] == Message("assistant", "", (ToolCall("c1", "add", '{"a":1}'),))
    assert record.prompt[2].tool_call_id == "c1" and record.tools == ({"type": "function"},)


ROWS = [{"instruction": "Add, please.", "input": "1\n2", "output": "3"}, {"instruction": "Sing \u266a", "output": "la"}]


def as_file(path: Path) -> Path:
    match path.suffix:
        case ".jsonl":
            written(path, "\ufeff" + "\r\n\r\n".join(map(json.dumps, ROWS)))
        case ".json":
            written(path, json.dumps(ROWS, indent=1))
        case ".csv":
            written(path, 'instruction,input,output\r\n"Add, please.","1\n2",3\r\nSing \u266a,,la\r\n')
        case ".tsv":
            written(path, 'instruction\tinput\toutput\nAdd, please.\t"1\n2"\t3\nSing \u266a\t\tla\n')
        case ".yaml":
            written(path, yaml.safe_dump(ROWS))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case _:  # a folder that `datasets` saved
            datasets.Dataset.from_list(ROWS).save_to_disk(path)
    return path


@pytest.mark.parametrize("name", ["s.jsonl", "s.json", "s.csv", "s.tsv", "s.yaml", "s.parquet", "saved"])
def test_every_format_gives_the_same_records(tmp_path: Path, name: str) -> None:
    seeds = read(as_file(tmp_path / name))
    assert [r.prompt[0].content for r in seeds] == ["Add, please.\n\n1\n2", "Sing \u266a"]
    assert [r.completion for r in seeds] == [assistant("3"), assistant("la")]
    assert list(stream(tmp_path / name)) == list(seeds)


def test_json_lines_in_a_json_file_are_read_too(tmp_path: Path) -> None:
    assert len(read(written(tmp_path / "a.json", "\n".join(map(json.dumps, ROWS))))) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"prompt": "a"}\n\n{"prompt": "b" "c"}', r"a\.jsonl:3: no JSON: .*\(column 16\)"),
        ("a.jsonl", '{"prompt": "a"}\n["b"]', r"a\.jsonl:2: a list instead of an object"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": "\\ud800"}', r"a\.jsonl:2: no JSON: no low surrogate"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "\xe4"}', r"a\.jsonl:2: byte 0xe4 is no UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\n'.decode().encode("utf-16"), r"a\.jsonl:1: byte 0xff is no UTF-8"),
        ("a.jsonl", '{"text": "a"}', r"a\.jsonl:1: the fields are text, and no shape .*alpaca \(instruction\)"),
        ("a.jsonl", '{"prompt": "a"}\n{"completion": "b"}', r'a\.jsonl:2: "prompt" is missing'),
        ("a.jsonl", '{"prompt": "a"}\n{"instruction": "b"}', r"a\.jsonl:2: the record is alpaca .* keep one shape"),
        ("a.jsonl", '{"prompt": 7}', r'a\.jsonl:1: "prompt" is a number, not text or a list of messages'),
        ("a.jsonl", '{"prompt": " "}', r'a\.jsonl:1: "prompt" is empty'),
        ("a.jsonl", '{"instruction": "a", "output": ""}', r'"output" is empty: give it a text, or leave the field out'),
        ("a.jsonl", '{"instruction": "a", "instances": []}', r'"instances" is not a list of objects'),
        ("a.jsonl", '{"messages": "a"}', r'"messages" is text, not a list of messages'),
        ("a.jsonl", '{"messages": [{"role": "bot", "content": "a"}]}', r'"messages\[0\]" has the role \'bot\''),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', r'"messages\[0\]\.content" is missing'),
        ("a.jsonl", '{"messages": [{"role": "assistant", "content": "a"}]}', r"nothing before the assistant's turn"),
        ("a.jsonl", '{"prompt": "a", "completion": "b", "label": 1}', r'"label" is a number, not true or false'),
        ("a.jsonl", '{"prompt": "a", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"}', r'"chosen" does'),
        ("a.jsonl", '{"prompt": "a", "meta": "x"}', r'"meta" is no JSON'),
        ("a.jsonl", "\n \n", r"a\.jsonl is empty"),
        ("a.json", '[\n{"prompt": "a"},\n\n{"prompt": 7}]', r'a\.json:4: "prompt" is a number'),
        ("a.json", '[\n{"prompt": "a"},\n{"prompt": "b"', r"a\.json:3: no JSON"),
        ("a.json", '{\n"prompt": "\\udc00"}', r'a\.json:1: "prompt" holds .*half of a character'),
        ("a.json", "[" * 100_000, r"a\.json:1: no JSON that can be read: nested too deeply"),
        ("a.json", '[{"prompt": NaN}]', r"a\.json: NaN is no JSON"),
        ("a.csv", "prompt,completion\na,b\nc,d,e\n", r"a\.csv: row 2: more cells than the header"),
        ("a.csv", 'prompt\na\n"b\n', r"a\.csv: row 2: no CSV"),
        ("a.csv", b"prompt\na\n\xff\n", r"a\.csv: row 2: line 3: byte 0xff is no UTF-8"),
        ("a.csv", 'prompt\na\n""\n', r'a\.csv: row 2: "prompt" is missing'),
        ("a.yaml", "- prompt: a\n- prompt: 1\n", r'a\.yaml: item 2: "prompt" is a number'),
        ("a.yaml", "- prompt: a\n  - b: [\n", r"a\.yaml:2: no YAML"),
        ("a.yaml", "prompt: a", r"a\.yaml: no list of records"),
        ("a.parquet", "PAR1", r"a\.parquet: no Parquet file that can be read"),
        ("a.log", "a", r"a\.log: cannot read \.log; give \.jsonl, "),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read(written(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_a_parquet_row_is_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"] * 1500 + [" "]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: row 1501"):
        read(tmp_path / "a.parquet")


def test_one_file_has_no_splits(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl is one file and has no splits: leave out split=tset"):
        read(tmp_path / "a.jsonl", split="tset")


def test_scores_are_read_where_they_are_named_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows: list[dict[str, Any]] = [{"prompt": "a", "completion": "b", "scores": {"quality": 4, "none": None}}]
    rows += [{"prompt": "c", "completion": "d", "scores": [1, 2]}]  # as other datasets have it
    file.write_text("\n".join(map(json.dumps, rows)))
    assert [r.scores for r in read(file)] == [{"quality": 4.0}, {}]
    file.write_text(json.dumps(rows[0] | {"scores": {"quality": "good"}}))
    with pytest.raises(ConfigError, match=r'a.jsonl:1: "scores" has text under "quality", not a number'):
        read(file)


def test_a_place_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*seeds\.jsonl"):
        read(tmp_path / "seeds.jsonl")
    with pytest.raises(ConfigError, match="no dataset 'nobody/nothing': no file or folder here, and the Hub"):
        read("nobody/nothing")
    with pytest.raises(ConfigError, match="no dataset"):
        read(tmp_path)


def test_copies_and_unread_fields_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"prompt": "a"}\n{"prompt": "b", "author": "x"}\n{"prompt": "a"}')
    seeds = read(path)
    assert [r.prompt[0].content for r in seeds] == ["a", "b"]
    assert seeds.notes == ("1 of 3 left out as copies of an earlier one", "fields not read: author")
    assert str(seeds) == f"2 records from {path}, read as prompt/completion ({'; '.join(seeds.notes)})"
    assert len(list(stream(path))) == 3


def test_a_pool_draws_from_what_was_read(tmp_path: Path) -> None:
    seeds = read(written(tmp_path / "a.jsonl", "\n".join(json.dumps({"prompt": f"p{i}"}) for i in range(20))))
    drawn = GrowingPool(seeds).start().draw(Random(0))
    assert drawn is not None and len({r.id for r in drawn}) == 8
    assert seeds[2:4] == tuple(seeds)[2:4]


def test_our_own_dataset_comes_back_with_its_lineage(tmp_path: Path) -> None:
    seed = Record(prompt=user("seed"))
    made = [
        seed.child(by="respond", completion=assistant("yes")).scored(judge=4.0),
        seed.child(by="feedback", completion=assistant("yes"), rejected=assistant("no")),
    ]
    held = Record(prompt=user("held"), completion=assistant("out"))
    write_dataset(tmp_path / "run" / "dataset", lambda: [*made, held], held_out=[held.id], facts={})
    for folder in (tmp_path / "run", tmp_path / "run" / "dataset"):
        assert list(read(folder)) == made
    assert list(read(tmp_path / "run", split="test")) == [held]
    assert list(read(tmp_path / "run", config="preference")) == made[1:]
    assert read(tmp_path / "run").shape == "kdaug's own"
    # through the `datasets` library, as from the Hub
    copy = datasets.load_dataset(str(tmp_path / "run" / "dataset"), "completion", split="train")
    copy.save_to_disk(tmp_path / "copy")
    assert list(read(tmp_path / "copy")) == made[:1]
    with pytest.raises(ConfigError, match="no kind 'chat'; there are prompt, completion"):
        read(tmp_path / "run", config="chat")
    with pytest.raises(ConfigError, match="no split 'dev', only"):
        read(tmp_path / "run", split="dev")
    (tmp_path / "open").mkdir()
    written(tmp_path / "open" / "run.json", "{}")
    with pytest.raises(ConfigError, match="finish it first"):
        read(tmp_path / "open")


def test_a_folder_of_another_dataset_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    written(tmp_path / "theirs" / "train.jsonl", json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": "b"}))
    written(tmp_path / "theirs" / "test.jsonl", json.dumps({"prompt": "c"}))
    assert [r.prompt[0].content for r in read(tmp_path / "theirs")] == ["a", "b"]
    assert [r.prompt[0].content for r in read(tmp_path / "theirs", split="test")] == ["c"]
    with pytest.raises(ConfigError, match="dev"):
        read(tmp_path / "theirs", split="dev")


def test_a_folder_of_two_formats_is_not_read_in_part(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "Q?", "completion": "A."}\n', "utf-8")
    (tmp_path / "b.csv").write_text("prompt,completion\nq,a\n", "utf-8")
    with pytest.raises(ConfigError, match=r"several formats \(a\.jsonl, b\.csv\): give each"):
        read(tmp_path)
