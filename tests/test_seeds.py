"""The seeds that are shipped: well formed, varied, and such as the pipeline itself would keep."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from rapidfuzz.distance import LCSseq

from kdaug.gate import Prepared
from kdaug.gates.instructions import InstructionFilters
from kdaug.prompts import shipped
from kdaug.read import read

FILE = shipped() / "seeds" / "seeds.jsonl"
SEEDS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_at_least_48_with_all_fields() -> None:
    assert len(SEEDS) >= 48
    for seed in SEEDS:
        assert set(seed) == {"instruction", "input", "output"}
        assert seed["instruction"].strip() and seed["output"].strip()
        assert all(text == text.strip() for text in seed.values())


def test_kdaug_reads_them() -> None:
    records = read(FILE)
    assert len(records) == len(SEEDS) == len({record.id for record in records})
    assert [record.instruction for record in records] == [seed["instruction"] for seed in SEEDS]


@pytest.mark.parametrize("field", ["instruction", "output"])
def test_no_two_are_the_same(field: str) -> None:
    values = [seed[field] for seed in SEEDS if len(seed[field].split()) > 1]
    assert len(values) == len(set(values))


def test_no_two_instructions_are_near_by_rouge() -> None:
    tokens = [seed["instruction"].lower().split() for seed in SEEDS]
    near = [(a, b) for a, b in combinations(tokens, 2) if 20 * LCSseq.similarity(a, b) > 7 * (len(a) + len(b))]
    assert near == []


def test_about_a_quarter_is_classification() -> None:
    """Their outputs are labels that the instruction names."""
    labels = [seed for seed in SEEDS if seed["output"].lower() in seed["instruction"].lower()]
    assert 0.2 <= len(labels) / len(SEEDS) <= 0.3
    assert len({seed["output"].lower() for seed in labels}) > 8


def test_with_and_without_input() -> None:
    assert 0.3 < sum(seed["input"] == "" for seed in SEEDS) / len(SEEDS) < 0.7


def test_they_stand_alone_in_few_words_and_pass_the_filters() -> None:
    for seed, record in zip(SEEDS, read(FILE), strict=True):
        assert 6 <= len(seed["instruction"].split()) <= 30, seed["instruction"]
        assert InstructionFilters().decide(Prepared(record)) is None, seed["instruction"]
