"""Selectors choose exactly n, as naive references do, whatever the order, and say why the others are left."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdaug.embedding import Embedder
from kdaug.errors import ConfigError
from kdaug.record import Record, assistant, user
from kdaug.selector import Chosen, Selector, choose, quotas
from kdaug.selectors.balance import Balance
from kdaug.selectors.deita import Deita
from kdaug.selectors.k_center import KCenter
from kdaug.selectors.quota import Quota
from kdaug.selectors.top_k import TopK


def vector(text: str) -> Any:
    """`12.5 …`: a direction in the plane, in degrees; any other text: one of its own in five dimensions."""
    rng = np.random.default_rng(sum(ord(c) * 31**i for i, c in enumerate(text[:12])) % 2**32)
    made = rng.normal(size=5)
    return made / np.linalg.norm(made)


def plane(text: str) -> Any:
    turned = np.deg2rad(float(text.split()[0]))
    return np.array([np.cos(turned), np.sin(turned)])


@pytest.fixture(autouse=True)
def known_vectors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def embed(self: Embedder, texts: Sequence[str], step: Any = None) -> Any:
        make = plane if texts[0][:1].isdigit() else vector
        return np.stack([make(t) for t in texts]).astype(np.float32)

    monkeypatch.setattr(Embedder, "embed", embed)
    yield


def angled(angle: float, **scores: float) -> Record:
    return Record(prompt=user(f"{angle}"), scores=scores)


def chosen(selector: Selector, records: Sequence[Record]) -> tuple[list[Record], Chosen]:
    made = choose(selector, lambda: iter(records), frozenset())
    return [r for r, kept in zip(records, made.mask, strict=True) if kept], made


def test_deita_takes_the_best_first_and_nothing_near_it() -> None:
    # 30, 15, 0 degrees with falling scores: cos 15 = .9659, cos 30 = .8660
    records = [angled(0, deita=1.0), angled(15, deita=2.0), angled(30, deita=3.0)]
    kept, made = chosen(Deita(3, threshold=0.95), records)
    assert kept == [records[0], records[2]]
    why = made.why(1)
    assert why.reason == "select:near"
    assert why.detail == {"rank": 2, "score": 2.0, "nearest": records[2].id, "cosine": pytest.approx(0.965926)}
    assert (made.kept, made.pool, made.dropped) == (2, 3, {"select:near": 1})


def test_deita_multiplies_scores_and_tells_what_it_did_not_come_to() -> None:
    records = [angled(0, c=2.0, q=2.0), angled(90, c=5.0, q=1.0), angled(180, c=1.0), Record(prompt=user(""))]
    kept, made = chosen(Deita(1, score="c*q"), records)
    assert kept == [records[1]]
    assert [made.why(p).reason for p in (0, 2, 3)] == ["select:beyond", "select:no_score", "select:no_score"]
    empty = Record(prompt=user(" "), scores={"deita": 9.0})
    kept, made = chosen(Deita(2), [empty, angled(0, deita=1.0)])
    assert len(kept) == 1 and made.why(0).reason == "select:empty"


def naive_deita(records: Sequence[Record], n: int, threshold: float) -> set[str]:
    taken: list[Record] = []
    for record in sorted(records, key=lambda r: (-r.scores["deita"], r.id)):
        mine = vector(record.prompt[0].content).astype(np.float32).astype(np.float64)
        others = [vector(t.prompt[0].content).astype(np.float32).astype(np.float64) for t in taken]
        if len(taken) < n and all(float(o @ mine) <= threshold for o in others):
            taken.append(record)
    return {r.id for r in taken}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 700), st.integers(1, 60), st.sampled_from([0.0, 0.5, 0.8, 0.95]), st.randoms(use_true_random=False)
)
def test_deita_is_the_naive_loop_in_any_order(size: int, n: int, threshold: float, rng: Random) -> None:
    records = [Record(prompt=user(f"t{i}"), scores={"deita": float(rng.randint(1, 9))}) for i in range(size)]
    kept, _ = chosen(Deita(n, threshold), records)
    assert {r.id for r in kept} == naive_deita(records, n, threshold)
    rng.shuffle(records)
    assert {r.id for r in chosen(Deita(n, threshold), records)[0]} == {r.id for r in kept}


def naive_k_center(records: Sequence[Record], n: int) -> set[str]:
    ordered = sorted(records, key=lambda r: r.id)
    all_of = np.stack([vector(r.prompt[0].content) for r in ordered])
    taken = [int(np.argmax(all_of @ all_of.mean(axis=0)))]
    while len(taken) < min(n, len(ordered)):
        nearest = [max(float(all_of[i] @ all_of[j]) for j in taken) for i in range(len(ordered))]
        taken.append(min((i for i in range(len(ordered)) if i not in taken), key=lambda i: nearest[i]))
    return {ordered[i].id for i in taken}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(1, 50), st.randoms(use_true_random=False))
def test_k_center_is_the_naive_loop_in_any_order(size: int, n: int, rng: Random) -> None:
    records = [Record(prompt=user(f"t{i}")) for i in range(size)]
    kept, made = chosen(KCenter(n), records)
    assert {r.id for r in kept} == naive_k_center(records, n)
    assert len(kept) == min(n, size) == made.kept
    rng.shuffle(records)
    assert {r.id for r in chosen(KCenter(n), records)[0]} == {r.id for r in kept}


def test_k_center_by_hand_and_with_copies() -> None:
    records = [angled(a) for a in (0, 10, 20, 90, 100)]
    kept, made = chosen(KCenter(2), records)
    # the mean points to 42 degrees: 20 is the nearest, and 100 the farthest from it
    assert [r.prompt[0].content for r in kept] == ["20", "100"]
    assert made.why(3).detail == {"nearest": records[4].id, "cosine": pytest.approx(math.cos(math.radians(10)))}
    assert len(chosen(KCenter(4), [angled(5)] * 6)[0]) == 4


def test_quota_takes_as_much_of_each_cluster() -> None:
    records = [angled(a / 10, judge=float(a)) for a in (*range(20), *range(900, 905), *range(1800, 1820))]
    kept, made = chosen(Quota(15, clusters=3, score="judge"), records)
    assert Counter(round(float(r.prompt[0].content) / 90) for r in kept) == {0: 5, 1: 5, 2: 5}
    assert [r.scores["judge"] for r in kept if r.scores["judge"] < 100] == [15, 16, 17, 18, 19]
    assert made.why(0).reason == "select:quota"
    detail = dict(made.why(0).detail)
    assert (detail["rank"], detail["quota"], detail["size"]) == (20, 5, 20)
    assert len(chosen(Quota(24, clusters=3), records)[0]) == 24  # the small cluster gives all, the others the rest
    assert len(chosen(Quota(99, clusters=3), records)[0]) == 45
    shuffled = list(records)
    Random(1).shuffle(shuffled)
    assert {r.id for r in chosen(Quota(15, clusters=3), shuffled)[0]} == {
        r.id for r in chosen(Quota(15, clusters=3), records)[0]
    }


def tagged(i: int, **meta: Any) -> Record:
    return Record(prompt=user(f"t{i}"), meta=meta, scores={"judge": i % 7})


def test_balance_by_tag_field_and_score() -> None:
    topics = ["maths"] * 30 + ["写作"] * 6 + ["🙂"] * 2
    records = [tagged(i, topic=t) for i, t in enumerate(topics)] + [tagged(99)]
    kept, made = chosen(Balance(12, by="meta.topic", score="judge"), records)
    assert Counter(r.meta["topic"] for r in kept) == {"maths": 5, "写作": 5, "🙂": 2}
    assert min(r.scores["judge"] for r in kept if r.meta["topic"] == "maths") >= 5
    assert made.why(38).reason == "select:no_value"
    tags = [tagged(i, tags=["all", "rare"] if i < 3 else ["all"]) for i in range(20)]
    assert sum("rare" in r.meta["tags"] for r in chosen(Balance(6, by="meta.tags"), tags)[0]) == 3
    binned = chosen(Balance(7, by="scores.judge", bins=7), [tagged(i) for i in range(70)])[0]
    assert sorted(r.scores["judge"] for r in binned) == [0, 1, 2, 3, 4, 5, 6]
    answers = [Record(prompt=user(f"p{i}"), completion=assistant("x") if i < 8 else None) for i in range(10)]
    assert Counter(r.kind for r in chosen(Balance(4, by="kind"), answers)[0]) == {"completion": 2, "prompt": 2}


def test_top_k_takes_the_highest_and_equal_ones_by_id() -> None:
    records = [tagged(i) for i in range(20)]
    kept, made = chosen(TopK(3, score="judge"), records)
    best = sorted(records, key=lambda r: (-r.scores["judge"], r.id))
    assert {r.id for r in kept} == {r.id for r in best[:3]}
    left = records.index(best[3])
    assert made.why(left).detail == {"rank": 4, "score": best[3].scores["judge"]}


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 30), max_size=6), st.integers(1, 100))
def test_quotas_are_as_equal_as_they_can_be(sizes: dict[str, int], n: int) -> None:
    shares = quotas(sizes, n)
    assert sum(shares.values()) == min(n, sum(sizes.values()))
    assert all(0 <= shares[g] <= sizes[g] for g in sizes)
    unfilled = [shares[g] for g in sizes if shares[g] < sizes[g]]
    assert not unfilled or max(shares.values()) - min(unfilled) <= 1


@pytest.mark.parametrize("selector", [Deita(2), KCenter(2), Quota(2), Balance(2, by="meta.x"), TopK(2, score="judge")])
def test_an_empty_pool_selects_nothing_and_one_record_is_taken(selector: Selector) -> None:
    assert chosen(selector, [])[1].kept == 0
    only = [Record(prompt=user("水"), meta={"x": 1}, scores={"judge": 1.0, "deita": 1.0})]
    assert chosen(selector, only)[0] == only


def test_a_record_that_no_split_may_hold_is_not_in_the_pool() -> None:
    records = [
        Record(prompt=user(f"t{i}"), roots=("a", "b") if i == 0 else ("a",), scores={"s": 9 - i}) for i in range(4)
    ]
    made = choose(TopK(2, score="s"), lambda: iter(records), frozenset({"b"}))
    assert list(made.mask) == [1, 1, 1, 0] and (made.kept, made.pool) == (2, 3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Deita(0), "deita: n is 0"),
        (lambda: Deita(5, threshold=3), "threshold is a cosine"),
        (lambda: Quota(5, clusters=0), "clusters is 0"),
        (lambda: Balance(5, by="topic"), "meta.NAME"),
        (lambda: Balance(5, by="meta.x", bins=0), "bins is 0"),
        (lambda: chosen(TopK(5, score="jugde"), [tagged(1)]), "no record has the score 'jugde'; there are judge"),
        (lambda: chosen(Balance(5, by="meta.topic"), [tagged(1)]), "no record has 'meta.topic'"),
        (lambda: KCenter(5, model="/"), "is no model"),
    ],
)
def test_what_cannot_be_selected_is_said(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
