"""The card: a head that the Hub takes, and tables that no text in them can break."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from kdaug.card import Counts, write_card

FACTS: dict[str, Any] = {
    "kdaug": "0.1.0",
    "command": "kdaug run respond --seeds 'a|b`c```.jsonl'",
    "recipe": {"stages": [{"generator": "respond", "gates": ["heuristics"]}], "target": 100, "note": "```\n# title"},
    "fingerprint": "abcd1234",
    "status": "stopped",
    "ended_by": "max_cost",
    "teachers": {"teacher": {"name": "vllm:Qwen/Qwen3-32B"}, "judge": {"name": "openai:m|x`y"}},
    "stages": [
        {
            "name": "respond",
            "jobs": 1200,
            "kept": 160,
            "dropped": {"rouge:near": 12, "a|b`<b>`\nc": 1028},
            "usage": {"calls": 1200, "cost": 0.25},
        }
    ],
    "templates": {"respond": "0011223344"},
    "usage": {
        "vllm:Qwen/Qwen3-32B": {"calls": 1200, "prompt_tokens": 34567, "completion_tokens": 123456, "cost": 0.25}
    },
    "bill": {"cost": 0.25, "per_kept": 0.0015625},
    "holdout": 0.1,
    "seeds": {"source": "seeds.jsonl", "count": 120},
}
COUNTS = Counts(
    {"completion": {"train": 1080, "test": 120}, "preference": {"train": 28}},
    {"vllm:Qwen/Qwen3-32B": 1200},
    {"holdout:mixed": 3},
)


def head(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_head_names_a_configuration_a_kind_and_one_default() -> None:
    assert head(write_card({}, COUNTS)) == {
        "license": "apache-2.0",
        "task_categories": ["text-generation"],
        "size_categories": ["1K<n<10K"],
        "tags": ["kdaug", "synthetic", "knowledge-distillation"],
        "configs": [
            {
                "config_name": "completion",
                "default": True,
                "data_files": [
                    {"split": "train", "path": "data/completion/train-*.parquet"},
                    {"split": "test", "path": "data/completion/test-*.parquet"},
                ],
            },
            {
                "config_name": "preference",
                "data_files": [{"split": "train", "path": "data/preference/train-*.parquet"}],
            },
        ],
    }
    assert "license" not in head(write_card(FACTS, COUNTS))  # the judge's terms are unknown


@pytest.mark.parametrize(
    ("number", "size"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M"), (10**8, "n>10M")],
)
def test_the_size_is_the_hubs_category(number: int, size: str) -> None:
    assert head(write_card({}, Counts({"prompt": {"train": number}})))["size_categories"] == [size]


def test_the_card_says_what_where_from_and_why_dropped() -> None:
    card = write_card(FACTS, COUNTS)
    assert "1,228 records, grown from 120 seeds, with the words of `vllm:Qwen/Qwen3-32B`." in card
    assert "The run that made it is **stopped** (max\\_cost)" in card
    assert "| completion (default) | `prompt`, `completion` | train | 1,080 |" in card
    assert "| respond | 1,200 | 160 | 1,040 |" in card
    assert "| respond | `rouge:near` | 12 |" in card
    assert "| dataset | `holdout:mixed` | 3 |" in card
    assert "10 % of the seeds" in card
    qwen = next(line for line in card.splitlines() if line.startswith("| `vllm:Qwen"))
    assert "| respond | 1,200 | 160 | 1,040 | 1,200 | $0.25 |" in card
    assert "A kept record cost $0.0016, all of it $0.25." in card
    assert "| teacher | 1,200 | 1,200 | 34,567 / 123,456 | $0.25 | [apache-2.0](https://www.apache.org/" in qwen
    assert "| `respond` | `0011223344` |" in card
    assert "generator: respond" in card and "(fingerprint `abcd1234`)" in card


def test_no_text_breaks_a_table_or_leaves_its_block() -> None:
    card = write_card(FACTS, COUNTS)
    blocks = re.findall(r"^(`{3,})(\w+)\n(.*?)^\1$", card, re.DOTALL | re.MULTILINE)
    assert [kind for _, kind, _ in blocks] == ["python", "python", "sh", "yaml"]
    assert blocks[2][2].strip() == FACTS["command"]
    assert yaml.safe_load(blocks[3][2]) == FACTS["recipe"]
    columns = 0
    for line in card.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        if set(line) <= set("|-:") and line:
            columns = cells
        elif line.startswith("|") and columns:
            assert cells == columns, line
        else:
            columns = 0
    assert "| respond | ``a\\|b`<b>` c`` | 1,028 |" in card
    assert "| ``openai:m\\|x`y`` | judge | 0 | unknown | unknown | unknown | unknown | unknown |" in card


def test_an_earlier_teacher_is_named_though_this_run_had_another() -> None:
    card = write_card(
        {"teachers": {"teacher": {"name": "fake:echo"}}}, Counts({"prompt": {"train": 1}}, {"openai:gpt-4o": 1})
    )
    assert "| `openai:gpt-4o` | earlier data | 1 | unknown | unknown | unknown | [OpenAI terms of use](" in card
    assert head(card)["license"] == "other"


def test_a_card_without_facts_has_no_empty_sections() -> None:
    card = write_card({}, Counts({"prompt": {"train": 1}}))
    assert "1 record.\n" in card and "No model is recorded" in card
    assert "## From jobs" not in card and "## How it was made" not in card
    assert "\n\n\n" not in card and "\n\n\n" not in write_card(FACTS, COUNTS)


def test_the_card_counts_what_was_kept_of_each_value_and_names_those_that_nobody_filled() -> None:
    many = {f"m{n:03}": 1 for n in range(40)}
    report = {"combinations": 3, "who": {"a nurse": 1, "a|b": 12}, "topic": many}
    stage = {**FACTS["stages"][0], "reports": {"coverage": report}}
    axes = {"who": ["a nurse", "a|b", "a judge", 7], "level": ["hard"]}
    card = write_card({**FACTS, "recipe": {"source": {"axes": axes}}, "stages": [stage]}, COUNTS)
    assert "| respond | who | 2 of 4 | a\\|b 12, a nurse 1 | a judge, 7 |" in card
    assert "| respond | level | 0 of 1 |  | hard |" in card
    [topic] = [line for line in card.splitlines() if line.startswith("| respond | topic | 40 | m000 1, ")]
    assert topic.endswith("m029 1, and 10 values with 1 or less |  |")
    assert "## Coverage" not in write_card(FACTS, COUNTS)


def test_a_search_that_may_miss_says_how_much_it_finds() -> None:
    stage = {**FACTS["stages"][0], "reports": {"dedup": {"sampled": 2048, "recall": 0.9876}, "other": {"n": 1}}}
    card = write_card({**FACTS, "stages": [stage]}, COUNTS)
    assert "`dedup` in a way that may miss some: of 2,048 records" in card and "98.8 %" in card
    assert "may miss some" not in write_card(FACTS, COUNTS)
