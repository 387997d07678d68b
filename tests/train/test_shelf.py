"""Tokens that lie in a mapped file are what they were, and no memory holds them."""

from __future__ import annotations

import mmap
from array import array
from pathlib import Path

import pytest

from kdaug.chat import Chat
from kdaug.record import Record, assistant, user
from kdaug.train.batching import collate, encode
from kdaug.train.document import IGNORE, Document
from kdaug.train.shelf import Shelf


def made(n: int) -> Document:
    return Document(array("i", range(n)), array("i", [*range(1, n), IGNORE][:n]), f"r{n}")


def test_documents_come_back_as_they_were_put() -> None:
    shelf = Shelf()
    for sizes in ([3, 1, 0, 7], [], [5_000, 2], [0], [1]):  # more than a page, and maps that begin within one
        given = [made(n) for n in sizes]
        put = shelf.put(given)
        assert [(d.ids.tolist(), d.targets.tolist(), d.record) for d in put] == [
            (d.ids.tolist(), d.targets.tolist(), d.record) for d in given
        ]
        assert [d.trained for d in put] == [d.trained for d in given]
    (one, two) = (shelf.put([made(3)]), shelf.put([made(4)]))
    assert collate([[one[0], two[0]]], pad=9).ids.tolist() == [[0, 1, 2, 0, 1, 2, 3]]


def test_training_data_are_mapped_and_not_held(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 records are three blocks: their tokens are views of maps, and leave no file behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tiny.parent))
    before = set(tiny.parent.iterdir())
    records = [Record(prompt=user(f"q{i}"), completion=assistant(f"answer {i}")) for i in range(3_000)]
    encoded = encode(records, "completion", Chat.load(tiny), 64)
    assert len(encoded.documents) == 3_000
    maps = {id(d.ids.obj): d.ids.obj for (d,) in encoded.documents if isinstance(d.ids, memoryview)}
    assert len(maps) == 3 and all(isinstance(m, mmap.mmap) for m in maps.values())
    assert set(tiny.parent.iterdir()) == before
