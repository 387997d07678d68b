"""Embeddings are unit rows in the order asked for, computed once by content, whatever happens to the cache."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdaug import embedding
from kdaug.embedding import Embedder, Precision
from kdaug.errors import ConfigError, KdaugError

TEXTS = ["How do I boil an egg?", "Sort a list.", "How can I boil an egg?", "", "木星有多大?" * 40]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDAUG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the model itself was asked for; it answers with its texts' lengths and hashes, at once."""
    asked: list[str] = []

    class Encoder:
        prompts, default_prompt_name = dict[str, str](), None

        def preprocess(self, texts: Sequence[str]) -> dict[str, Any]:
            return {}

        def encode(self, texts: Sequence[str], **options: Any) -> Any:
            asked.extend(dict.fromkeys(texts))
            return np.stack([np.random.default_rng(len(t)).normal(size=16) for t in texts])

    monkeypatch.setattr(embedding, "_encoder", lambda path, half: Encoder())
    return asked


def test_a_text_is_embedded_once_in_any_order_and_process_of_its_own(computed: list[str]) -> None:
    first = Embedder().embed(["bb", "a", "bb", "ccc"])
    assert sorted(computed) == ["a", "bb", "ccc"]
    again = Embedder().embed(["ccc", "dddd", "a"])
    assert sorted(computed) == ["a", "bb", "ccc", "dddd"]
    assert (
        np.array_equal(first[0], first[2]) and np.array_equal(again[0], first[3]) and np.array_equal(again[2], first[1])
    )
    assert first.dtype == np.float32 and np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


def test_precisions_do_not_share_vectors(computed: list[str]) -> None:
    for precision in ("float32", "bfloat16", "float32"):
        Embedder(precision=precision).embed(["a"])
    assert computed == ["a", "a"]


def test_nothing_to_embed_is_no_error(computed: list[str]) -> None:
    assert len(Embedder().embed([])) == 0


@pytest.mark.parametrize("harm", ["garbage", "a file for a folder"])
def test_a_cache_that_cannot_be_used_is_said_once_and_no_error(
    harm: str, own_cache: Path, computed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    if harm == "garbage":
        Embedder().embed(["a"])
        (file,) = (own_cache / "embeddings").glob("*.sqlite")
        file.write_bytes(b"no database" * 1000)
    else:
        own_cache.write_text("in the way")
    embedding._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "kdaug"):
        for _ in range(2):
            assert Embedder().embed(["a", "bb"]).shape == (2, 16)
    assert caplog.text.count("embeddings are not kept") == 1 and str(own_cache) in caplog.text


def test_only_the_newest_vectors_are_kept(
    own_cache: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "MOST", 50)
    for start in range(0, 200, 20):
        Embedder().embed([f"{i}" for i in range(start, start + 20)])
    (file,) = (own_cache / "embeddings").glob("*.sqlite")
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT count(*) FROM vectors").fetchone() == (50,)
    computed.clear()
    Embedder().embed(["199", "0"])
    assert computed == ["0"]


def test_many_at_once_share_one_cache(computed: list[str]) -> None:
    texts = [f"{'x' * (i % 50)}{i}" for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda start: Embedder().embed(texts[start : start + 200]), [0, 100, 200] * 4))
    for start, rows in zip([0, 100, 200] * 4, made, strict=True):
        assert np.array_equal(rows, Embedder().embed(texts[start : start + 200]))


def test_a_wrong_field_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision must be one of auto, float32, bfloat16, not 'half'"):
        Embedder(precision="half")  # type: ignore[arg-type]  # as a user might write it
    with pytest.raises(ConfigError, match=str(tmp_path)):
        _ = Embedder(str(tmp_path)).found


@pytest.mark.slow
def test_the_real_encoder_gives_unit_rows_in_order_and_alike_in_any_company() -> None:
    rows = Embedder().embed(TEXTS)
    assert rows.shape == (5, 384) and rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert rows[0] @ rows[2] > 0.9 > 0.5 > rows[0] @ rows[1]
    full = Embedder(precision="float32").embed(TEXTS)
    assert np.all((rows * full).sum(1) > 0.995)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_a_vector_does_not_depend_on_who_else_is_embedded(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "how",
        "the",
        "quick",
        "brown",
        "fox",
        "learns",
        "to",
        "write",
        "short",
        "python",
        "functions",
        "about",
        "the",
        "long",
        "history",
        "of",
        "old",
        "rome",
    ]
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(words, size=rng.integers(1, 60))) for _ in range(20)]
    whole = Embedder(precision=precision).embed(texts)
    for number, size in enumerate((1, 7)):
        monkeypatch.setenv("KDAUG_CACHE", str(tmp_path / str(number)))  # nothing is known here
        order = rng.permutation(20)
        for start in range(0, 20, size):
            some = order[start : start + size]
            assert np.array_equal(Embedder(precision=precision).embed([texts[i] for i in some]), whole[some])


@pytest.mark.slow
def test_a_text_that_no_tokenizer_takes_has_a_vector() -> None:
    assert Embedder().embed(["half \ud83d of a smiley"]).shape == (1, 384)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_one_text_without_a_vector_is_told_apart_and_not_kept(
    value: float, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Holed(embedding._encoder("", False).__class__):  # type: ignore[misc]  # a class made at run time
        def encode(self, texts: Sequence[str], **options: Any) -> Any:
            rows = super().encode(texts, **options)
            rows[[t == "bad" for t in texts]] = value
            return rows

    monkeypatch.setattr(embedding, "_encoder", lambda path, half: Holed())
    for _ in range(2):
        rows = Embedder().rows(["fine", "bad", "good"])
        assert embedding.has_numbers(rows).tolist() == [True, False, True]
    assert computed.count("bad") == 2 and computed.count("fine") == 1
    with pytest.raises(KdaugError, match="not finite for 'bad'"):
        Embedder().embed(["fine", "bad"])


@pytest.mark.slow
def test_an_encoder_that_gives_no_numbers_is_an_error(tmp_path: Path) -> None:
    """A real model whose weights were ruined, such as by a bad conversion."""
    import torch
    from sentence_transformers import SentenceTransformer

    from kdaug.models import find_encoder

    model = SentenceTransformer(find_encoder().path, device="cpu")
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    model.save(str(tmp_path / "ruined"))
    with pytest.raises(KdaugError, match="not finite for 'Hello'"):
        Embedder(str(tmp_path / "ruined")).embed(["Hello"])
