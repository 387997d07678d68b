"""The lexical gate decides as rouge_score does, in whole numbers, whatever is in flight."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from deciding import adecisions, decisions
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scripted import Scripted

from kdaug.errors import ConfigError
from kdaug.gates.rouge import Rouge
from kdaug.record import Drop, Message, Record, assistant, user
from kdaug.words import ascii_words, count_words, words

SCORER = RougeScorer(["rougeL"], use_stemmer=False)


def instruction(text: str, **fields: object) -> Record:
    return Record(prompt=user(text), **fields)  # type: ignore[arg-type]  # the fields are the test's


def texts_of(vocabulary: int, longest: int) -> st.SearchStrategy[list[str]]:
    word = st.integers(0, vocabulary - 1).map(lambda i: f"w{i}")
    return st.lists(st.lists(word, max_size=longest).map(" ".join), max_size=25)


def reference(texts: Sequence[str], threshold: float) -> list[int | None]:
    """For each text the place of its earliest kept twin by rouge_score, where F is not an exact tie."""
    kept: list[int] = []
    twins: list[int | None] = []
    for i, text in enumerate(texts):
        over = (k for k in kept if above(texts[k], text, threshold))
        twins.append(next(over, None))
        if twins[-1] is None:
            kept.append(i)
    return twins


def above(a: str, b: str, threshold: float) -> bool:
    f = float(SCORER.score(a, b)["rougeL"].fmeasure)
    return f > threshold and abs(f - threshold) > 1e-9  # at a tie its floats decide by chance: the gate keeps


@settings(max_examples=60, deadline=None)
@given(texts_of(vocabulary=6, longest=14), st.sampled_from([0.3, 0.5, 0.7, 0.9]), st.sampled_from([1, 4, 64]))
def test_decisions_and_twins_are_rouge_scores(texts: list[str], threshold: float, window: int) -> None:
    texts = [t or "w0" for t in texts]
    records = [instruction(t, meta={"n": i}) for i, t in enumerate(texts)]
    found = decisions(Rouge(threshold).start([]), records, window)
    twins = reference(texts, threshold)
    assert [d.detail["twin"] if d else None for d in found] == [None if k is None else records[k].id for k in twins]
    for text, drop, k in zip(texts, found, twins, strict=True):
        if drop is not None and k is not None:
            assert drop.reason == "rouge:near_duplicate"
            assert drop.detail["score"] == pytest.approx(SCORER.score(text, texts[k])["rougeL"].fmeasure)


def test_decisions_are_rouge_scores_on_longer_near_copies() -> None:
    rng = random.Random(0)
    texts: list[str] = []
    for _ in range(150):
        made = [f"v{int(rng.paretovariate(0.6)) % 500}" for _ in range(rng.randint(3, 24))]
        if texts and rng.random() < 0.5:
            made = rng.choice(texts).split()
            for _ in range(rng.randint(1, 1 + len(made) // 3)):
                made[rng.randrange(len(made))] = f"v{rng.randrange(500)}"
        texts.append(" ".join(made))
    found = decisions(Rouge().start([]), [instruction(t) for t in texts], window=32)
    assert [d is not None for d in found] == [k is not None for k in reference(texts, 0.7)]
    assert 20 < sum(d is not None for d in found) < 130


def test_the_specified_example_is_a_near_duplicate() -> None:
    first, second = instruction("write a short poem about the sea"), instruction("write a long poem about the sea")
    _, drop = decisions(Rouge().start([]), [first, second])
    assert drop == Drop(
        "rouge:near_duplicate", {"twin": first.id, "score": 6 / 7, "text": "write a short poem about the sea"}
    )


@pytest.mark.parametrize(("m", "n"), [(10, 10), (8, 12), (13, 7)])
def test_an_exact_tie_is_kept(m: int, n: int) -> None:
    """LCS 7 of m + n = 20 is F = 7/10, not above it; rouge_score's floats say 0.7000000000000001 for 8 and 12."""
    shared = [f"s{i}" for i in range(7)]
    a = " ".join(shared + [f"a{i}" for i in range(m - 7)])
    b = " ".join(shared + [f"b{i}" for i in range(n - 7)])
    assert decisions(Rouge(0.7).start([]), [instruction(a), instruction(b)]) == [None, None]
    assert decisions(Rouge(0.69).start([]), [instruction(a), instruction(b)])[1] is not None


def test_seeds_count_as_kept_and_siblings_see_each_other() -> None:
    seed = instruction("Name the capital city of France and its river")
    copy = instruction("Name the capital city of France and its rivers")
    new, sibling = (
        instruction("Sort these numbers from low to high"),
        instruction("Sort these numbers from high to low"),
    )
    found = decisions(Rouge().start([seed]), [copy, new, sibling], window=3)
    assert [d.detail["twin"] if d else None for d in found] == [seed.id, None, new.id]


def test_a_seed_that_is_answered_is_no_duplicate_of_itself_but_of_another_seed_answered_before() -> None:
    seeds = [instruction("What is the tallest tree?"), instruction("What is the tallest tree ?")]
    answers = [s.child(by="respond", completion=assistant("A redwood.")) for s in seeds]
    found = decisions(Rouge().start(seeds), answers, window=2)
    assert [d.detail["twin"] if d else None for d in found] == [None, answers[0].id]


def test_a_copy_of_an_example_is_a_duplicate() -> None:
    seeds = [instruction("What is the tallest tree?"), instruction("Write a haiku about rain")]
    copy = seeds[0].child(seeds[1], by="self_instruct", prompt=user("What is the tallest tree?"))
    (found,) = decisions(Rouge().start(seeds), [copy])
    assert found is not None and found.detail["twin"] == seeds[0].id


def test_what_is_compared_is_the_field_asked_for() -> None:
    a, b = (
        Record(
            prompt=(Message("system", "You are a helpful, honest and harmless assistant. " * 4), *user(text)),
            completion=assistant("No idea, sorry about that."),
            meta={"instruction": "Translate the sentence into French"},
        )
        for text in ("Translate the sentence into French\n\nGood morning to all of you", "Something else entirely")
    )
    assert decisions(Rouge(on="instruction").start([]), [a, b])[1] is not None
    assert decisions(Rouge(on="prompt").start([]), [a, b])[1] is None
    assert decisions(Rouge(on="completion").start([]), [a, b])[1] is not None


def test_text_of_any_script_is_compared_unless_rouge_scores_own_tokenizer_is_asked_for() -> None:
    pairs = [
        ("请写一首关于春天的短诗", "请写一首关于秋天的短诗"),
        ("Напишите короткое стихотворение о море и небе", "Напишите длинное стихотворение о море и небе"),
        ("समुद्र के बारे में एक छोटी कविता लिखो", "समुद्र के बारे में एक लंबी कविता लिखो"),
        ("اكتب قصيدة قصيرة عن البحر", "اكتب قصيدة طويلة عن البحر"),
    ]
    for pair in pairs:
        records = [instruction(text) for text in pair]
        assert decisions(Rouge().start([]), records)[1] is not None, pair
        assert decisions(Rouge(tokenizer="rouge_score").start([]), records)[1] is None, pair


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii")))
def test_on_ascii_the_tokenizers_agree_with_rouge_score(text: str) -> None:
    expected = SCORER._tokenizer.tokenize(text)
    assert words(text) == expected == ascii_words(text)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_the_other_tokenizer_is_rouge_scores_on_any_text(text: str) -> None:
    assert ascii_words(text) == SCORER._tokenizer.tokenize(text)


def test_words_of_many_scripts() -> None:
    assert words("Ein schöner Tag, o\u0308fter!") == ["ein", "schöner", "tag", "öfter"]
    assert words("हिन्दी में लिखो।") == ["हिन्दी", "में", "लिखो"]
    assert words("東京タワー、ＡＢＣ") == ["東", "京", "タ", "ワ", "ー", "abc"]
    assert words("snake_case 😀") == ["snake", "case"]
    assert count_words("I don't know, really.") == 4
    assert count_words("你好世界") == 4 and count_words("😀") == 1 and count_words(" \n") == 0


def test_a_text_without_words_is_kept_and_a_blank_one_dropped() -> None:
    found = decisions(Rouge().start([]), [instruction("???"), instruction("???!"), instruction(" \n")])
    assert found == [None, None, Drop("rouge:empty", {"on": "instruction"})]
    assert decisions(Rouge(on="completion").start([]), [instruction("Hi")]) == [
        Drop("rouge:empty", {"on": "completion"})
    ]


def test_a_recipe_can_run_twice() -> None:
    gate, record = Rouge(), instruction("Describe a sunny day in May")
    assert decisions(gate.start([]), [record]) == decisions(gate.start([]), [record]) == [None]


def test_thresholds_at_the_ends() -> None:
    same = [instruction("a b c d"), instruction("a b c d", meta={"n": 1}), instruction("x d")]
    assert [d is not None for d in decisions(Rouge(1.0).start([]), same)] == [False, False, False]
    assert [d is not None for d in decisions(Rouge(0).start([]), same)] == [False, True, True]


@pytest.mark.parametrize("fields", [{"threshold": 70}, {"on": "answer"}, {"tokenizer": "bert"}])
def test_a_wrong_field_is_named(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"rouge: {next(iter(fields))}"):
        Rouge(**fields)  # type: ignore[arg-type]  # the test is about wrong values


def test_what_was_kept_before_a_resume_is_remembered() -> None:
    record = instruction("Sort these numbers from low to high")
    again = Record(prompt=record.prompt, meta={"n": 2}, completion=assistant("Yes"))

    async def run() -> list[Drop | None]:
        gate = Rouge().start([])
        gate.remember(await gate.recall(record, Scripted(lambda *asked: AssertionError("nobody is asked"))))
        return await adecisions(gate, [again])

    (drop,) = asyncio.run(run())
    assert drop is not None and drop.detail["twin"] == record.id
