"""The minhash gate: no wrong drop, few twins missed, keep first, whatever is in flight."""

from __future__ import annotations

import random

import pytest
from deciding import decisions
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaug.errors import ConfigError
from kdaug.gates.minhash import MinHash, bands
from kdaug.record import Drop, Record, user
from kdaug.words import words


def instruction(text: str, **fields: object) -> Record:
    return Record(prompt=user(text), **fields)  # type: ignore[arg-type]  # the fields are the test's


def jaccard(a: str, b: str, n: int) -> float:
    one, two = (
        {tuple(w[i : i + n]) for i in range(max(1, len(w) - n + 1))} if (w := words(t)) else set() for t in (a, b)
    )
    return len(one & two) / len(one | two) if one | two else 0.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "你", "😀", "é"]), max_size=12).map(" ".join), max_size=15),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 4, 64]),
)
def test_every_drop_is_right_and_names_a_kept_twin(texts: list[str], shingle: int, window: int) -> None:
    records = [instruction(t, meta={"n": i}) for i, t in enumerate(texts)]
    kept: dict[str, str] = {}
    for text, record, drop in zip(
        texts, records, decisions(MinHash(0.5, shingle).start([]), records, window), strict=True
    ):
        if drop is None:
            kept.setdefault(record.id, text)
        elif drop.reason == "minhash:near_duplicate":
            found = jaccard(text, kept[str(drop.detail["twin"])], shingle)
            assert found > 0.5 and drop.detail["score"] == pytest.approx(found, abs=1e-6)
        else:
            assert drop == Drop("minhash:empty", {"on": "prompt"}) and not text.strip()


@pytest.mark.parametrize("window", [1, 32])
def test_nearly_every_twin_is_found(window: int) -> None:
    rng = random.Random(0)
    texts: list[str] = []
    for i in range(400):
        made = [f"w{rng.randrange(5000)}" for _ in range(40)]
        if i % 2:
            made = rng.choice(texts[::2]).split()
            made[rng.randrange(40)] = "other"
        texts.append(" ".join(made))
    records = [instruction(t, meta={"n": i}) for i, t in enumerate(texts)]
    found = decisions(MinHash().start([]), records, window)
    assert all(d is None for d in found[::2])
    assert sum(d is not None for d in found[1::2]) >= 196


def test_seeds_count_as_kept_and_a_seed_is_no_twin_of_itself() -> None:
    seed = instruction("Name the capital city of France and its river")
    assert decisions(MinHash().start([seed]), [seed]) == [None]
    copy = instruction("Name the capital city of France, and its river!")
    (drop,) = decisions(MinHash().start([seed]), [copy])
    assert drop is not None and drop.detail == {"twin": seed.id, "score": 1.0, "text": seed.prompt[0].content}


def test_bands_find_a_pair_at_the_threshold() -> None:
    assert [bands(t) for t in (0.9, 0.8, 0.7, 0.3)] == [16, 32, 32, 64]


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(ConfigError, match="minhash: shingle"):
        MinHash(shingle=0)
