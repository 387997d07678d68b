"""The lexical figures, worked by hand and held against NLTK, rouge_score and vendi_score."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest

from kdaug import diversity, topics
from kdaug.diversity import tokens_of

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "red", "dog", "run", "home")


def random_texts(number: int, seed: int = 0) -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.choices(WORDS, k=rng.randint(1, 14)) for _ in range(number)]


def test_distinct_n_is_different_n_grams_of_all() -> None:
    assert diversity.distinct([["a", "b", "a", "b"]], 1) == 2 / 4
    assert diversity.distinct([["a", "b", "a", "b"]], 2) == 2 / 3  # ab ba ab
    assert diversity.distinct([["a", "b"], ["a", "b"], ["c"]], 2) == 1 / 2  # none across texts
    assert diversity.distinct([["a"], []], 2) is None


def test_self_bleu_by_hand() -> None:
    # Two copies: every n-gram is in the other text.
    assert diversity.self_bleu([list("abcde"), list("abcde")]) == pytest.approx(1.0)
    # abcd, abce: 3 of 4 words, 2 of 3 pairs, 1 of 2 triples, 0.1 of 1.
    assert diversity.self_bleu([list("abcd"), list("abce")]) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25)
    assert diversity.self_bleu([list("abcd"), list("wxyz")]) == 0
    assert diversity.self_bleu([list("abcd")]) is None
    assert diversity.self_bleu([[], list("abcd"), []]) is None


@pytest.mark.parametrize("seed", range(5))
def test_self_bleu_equals_nltks(seed: int) -> None:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    texts = random_texts(30, seed)
    smooth = SmoothingFunction().method1
    trusted = [
        sentence_bleu(texts[:i] + texts[i + 1 :], text, smoothing_function=smooth) for i, text in enumerate(texts)
    ]
    assert diversity.self_bleu(texts) == pytest.approx(sum(trusted) / len(trusted))


def test_rouge_equals_rouge_scores() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    texts = random_texts(25)
    ours = diversity.rouge_matrix(texts, texts)
    assert ours[0, 0] == 1
    for i, j in combinations(range(len(texts)), 2):
        trusted = scorer.score(" ".join(texts[i]), " ".join(texts[j]))["rougeL"].fmeasure
        assert ours[i, j] == pytest.approx(trusted)
    the_cat = diversity.rouge_matrix([tokens_of("The cat sat.")], [tokens_of("the cat ran")])
    assert the_cat.tolist() == [[pytest.approx(2 * 2 / 6)]]
    assert diversity.rouge_matrix([], [["a"]]).shape == (0, 1)
    assert diversity.rouge_matrix([[]], [[]]).tolist() == [[0.0]]


def test_other_scripts_have_words_too() -> None:
    assert diversity.rouge_matrix([tokens_of("我喜欢猫")], [tokens_of("我喜欢狗")]).tolist() == [[0.75]]
    assert tokens_of("🎉🎉") == []
    assert len(tokens_of("word " * 10_000)) == diversity.WORDS


def test_near_duplicates_have_an_earlier_one_above_the_threshold() -> None:
    similarity = np.array([[1.0, 0.8, 0.1], [0.8, 1.0, 0.7], [0.1, 0.7, 1.0]])
    assert diversity.near_duplicates(similarity, 0.75) == pytest.approx(1 / 3)
    assert diversity.near_duplicates(similarity, 0.8) == 0  # above, not at
    assert diversity.nearest_others(similarity).tolist() == [0.8, 0.8, 0.7]
    assert similarity[0, 0] == 1  # left as it was


@pytest.mark.parametrize(
    ("instruction", "pair"),
    [
        ("Write a short story about a dragon.", ("write", "story")),
        ("Please give me three tips for staying healthy", ("give", "tip")),
        ("Could you please create a poem inspired by the sea?", ("create", "poem")),
        ("Write down the names of all planets", ("write", "name")),
        ("List 10 facts.", ("list", "fact")),
        ('Rewrite the sentence "I am" in the past', ("rewrite", "sentence")),
        ("Classify the following movie reviews as good or bad", ("classify", "review")),
        ("Explain photosynthesis", ("explain", "photosynthesis")),
        ("Describe these cities", ("describe", "city")),
        ("Find the boxes", ("find", "box")),
        ("Explain how to bake bread.", None),
        ("What are the causes of war?", None),
        ("The job of a nurse is hard.", None),
        ("How to make a cat", None),
        ("Adding a level is easy", None),
        ("Given the text, do it", None),
        ("写一首诗", None),
        ("🎉", None),
        ("", None),
    ],
)
def test_the_leading_verb_and_its_object(instruction: str, pair: tuple[str, str] | None) -> None:
    assert diversity.verb_noun(instruction) == pair


@pytest.mark.parametrize(
    ("end", "cut"),
    [
        ("and that is the end.", False),
        ("and that is the", True),
        ("and so it is,", True),
        ("and he said “yes”", False),
        ("that was all 🎉", False),
        ("as follows:\n- one of them\n- the other one of those", False),
        ("as follows:\n```python\nprint(1)", True),
        ("as follows:\n```python\nprint(1)\n```", False),
        ("**and that is the end.**", False),
        ("こうして終わった。", False),
    ],
)
def test_what_ends_within_a_sentence_looks_cut_off(end: str, cut: bool) -> None:
    assert diversity.cut_off("Once there was a man who had a dog and a cat and a bird in one house, " + end) is cut


def test_a_short_answer_needs_no_full_stop() -> None:
    assert not diversity.cut_off("Paris") and not diversity.cut_off("")


def test_the_vendi_score_counts_unlike_texts() -> None:
    assert topics.vendi_score(np.eye(3, dtype=np.float32)) == pytest.approx(3)
    assert topics.vendi_score(np.tile(np.eye(3, dtype=np.float32)[0], (5, 1))) == pytest.approx(1)
    # Two pairs of copies: two kinds of text.
    assert topics.vendi_score(np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]) == pytest.approx(2)
    # Cosine 0.6: eigenvalues 0.8 and 0.2 of K / 2.
    by_hand = np.exp(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2)))
    assert topics.vendi_score(np.array([[1, 0], [0.6, 0.8]], np.float32)) == pytest.approx(by_hand, rel=1e-6)
    assert topics.vendi_score(np.empty((0, 4), np.float32)) is None


@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
def test_the_vendi_score_equals_its_authors(shape: tuple[int, int]) -> None:
    from vendi_score import vendi

    rows = np.random.default_rng(0).normal(size=shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert topics.vendi_score(rows) == pytest.approx(vendi.score_K(rows @ rows.T))


def test_topics_are_found_named_and_the_same_again() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(3, 16)[np.repeat([0, 1, 2], [100, 60, 40])]
    rows = (centres + rng.normal(scale=0.05, size=centres.shape)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = topics.clusters(rows, seed=0)
    assert (found == topics.clusters(rows, seed=0)).all()
    for start, stop in ((0, 100), (100, 160), (160, 200)):  # no cluster spans two of them
        assert not set(found[start:stop]) & set(np.delete(found, slice(start, stop)))
    sizes = np.bincount(found)
    assert (np.diff(sizes) <= 0).all()
    places = topics.flat_map(rows)
    assert places.shape == (200, 2) and (places == topics.flat_map(rows)).all()
    assert topics.clusters(rows[:1], seed=0).tolist() == [0]
    assert topics.clusters(np.tile(rows[:1], (50, 1)), seed=0).tolist() == [0] * 50


def test_topics_are_named_by_the_words_that_set_them_apart() -> None:
    texts = [tokens_of(t) for t in ("Bake bread", "Bake a cake", "Bake a big cake", "Sum 3 numbers", "Sum numbers up")]
    cooking, arithmetic = topics.names(texts, [0, 0, 0, 1, 1])
    assert cooking.split(", ")[:2] == ["bake", "cake"] and "bread" not in cooking
    assert set(arithmetic.split(", ")) == {"sum", "numbers"}
    assert topics.names([[]], [0]) == ["mixed 1"]
