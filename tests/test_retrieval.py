"""What is asked for is found, in the same order each time."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripted import Scripted, in_turn

from kdaug.errors import ConfigError
from kdaug.retrieval import Bm25, Library, corpus, retriever, search

NOBODY = Scripted(in_turn())  # is asked
PASSAGES = (
    "The tide follows the moon.",
    "Bread needs flour and water.",
    "The moon has no water. The moon is dry.",
    "猫は水が嫌い",
)


def test_bm25_ranks_by_rare_words_and_ties_by_place() -> None:
    index = Bm25(PASSAGES)
    assert [found.place for found in index.find("moon tide", 5)] == [0, 2]
    assert [found.place for found in index.find("the dry moon", 1)] == [2]
    assert [found.place for found in index.find("猫", 5)] == [3]
    assert index.find("nothing of that", 5) == [] and index.find("", 5) == []
    assert [found.place for found in Bm25(("a b", "a b")).find("a", 2)] == [0, 1]


def test_bm25_is_what_the_formula_says() -> None:
    index = Bm25(("a a b", "b"))
    ((_, weight),) = index._postings["a"]
    # idf = ln(1 + 1.5/1.5), tf = 2·2.2/(2 + 1.2·(0.25 + 0.75·3/2))
    assert weight == pytest.approx(0.693147 * 4.4 / 3.65, rel=1e-5)


def test_a_retriever_of_langchain(monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    class Mine(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [Document(page_content=f"{query} {n}") for n in range(3)]

    module = ModuleType("my_retrievers")
    module.mine, module.none = Mine(), 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_retrievers", module)
    found = asyncio.run(search(retriever("my_retrievers:mine", ()), "moon", 2, NOBODY))
    assert [one.text for one in found] == ["moon 0", "moon 1"]
    for how, wrong in {
        "my_retrievers:none": "no `invoke`",
        "my_retrievers:other": "imported",
        "bm42": "it is bm25",
    }.items():
        with pytest.raises(ConfigError, match=wrong):
            retriever(how, ("a",))
    with pytest.raises(ConfigError, match="no passage"):
        retriever("bm25", ())


def test_a_corpus_is_read_as_seeds_are(tmp_path: Path) -> None:
    (file := tmp_path / "mine.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    assert corpus(str(file)) == ("one", "two") and len(corpus("passages.jsonl")) >= 12
    library = Library(str(file), "bm25")
    assert [found.text for found in asyncio.run(library.search("two", 3, NOBODY))] == ["two"]
    file.write_text('{"prompt": "onetwo"}\n')
    assert Library(str(file), "bm25").digest != library.digest


@pytest.mark.slow  # loads the encoder
def test_dense_finds_what_shares_no_word() -> None:
    index = retriever("dense", PASSAGES)
    assert index.find("baking a loaf", 1)[0].place == 1 and len(index.find("baking", 9)) == 4
