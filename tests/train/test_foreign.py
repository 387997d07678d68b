"""Distillation from a teacher with another tokenizer: aligned by bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kdaug as kd
from kdaug.chat import Chat
from kdaug.errors import ConfigError
from kdaug.record import Record, assistant, user
from kdaug.train.distill import Distill, FromTeacher
from kdaug.train.foreign import FromForeign, Pair, pairs_of
from kdaug.train.guide import Present
from kdaug.train.lesson import lessons_of
from kdaug.train.sft import SFT
from kdaug.train.student import load

FAST = Distill(divergence="gold", epochs=6, lr=5e-3, length=256, accumulate=1)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    things = ("sea", "moon", "tea", "rain", "bread", "café ☕", "wine")
    return [
        Record(prompt=user(f"How is the {thing}?"), completion=assistant(f"The {thing} is {how}, and far away."))
        for thing in things
        for how in ("deep", "dear")
    ]


@pytest.fixture(scope="module")
def foreigner(
    tmp_path_factory: pytest.TempPathFactory,
    make_model: Callable[..., Path],
    make_tokenizer: Callable[..., Any],
    records: list[Record],
) -> Path:
    """A trained teacher whose tokenizer knows other words."""
    folder = tmp_path_factory.mktemp("foreigner")
    student = make_model(folder / "untrained", seed=2)
    make_tokenizer(words="how dear is the tea, how far the rain").save_pretrained(student)
    return SFT(epochs=30, lr=1e-2, length=256, accumulate=1).fit(records, student=student, out=folder / "teacher")


def pairs(records: list[Record], ours: Chat, theirs: Chat, length: int = 256) -> list[Pair]:
    lessons, kept, _ = lessons_of(records, ours, length)
    return pairs_of(lessons, kept, ours, theirs, length)


def test_groups_cover_the_same_text_in_both_tokenizations(tiny: Path, foreigner: Path, records: list[Record]) -> None:
    ours, theirs = Chat.load(tiny), Chat.load(foreigner)
    assert ours.digest != theirs.digest
    for record, pair in zip(records, pairs(records, ours, theirs), strict=True):
        said = []
        for chat, document, side in ((ours, pair.document, 0), (theirs, pair.other, 1)):
            answer = document.ids[len(document) - document.trained :]
            parts = [[answer[i] for i in group[side]] for group in pair.groups]
            assert [id for part in parts for id in part] == answer.tolist()
            said.append([chat.tokenizer.decode(part) for part in parts])
        whole = [(s, t) for s, t in zip(*said, strict=True) if "\ufffd" not in s + t]  # but for parts of a character
        assert all(s == t for s, t in whole) and len(whole) > len(record.completion[0].content.split())  # type: ignore[index]
        assert said[0][-1] == "<|im_end|>"
    assert any(len(s) != len(t) for pair in pairs(records, ours, theirs) for s, t in pair.groups)


def test_between_equal_tokenizers_it_is_the_divergence_itself(
    tiny: Path, tmp_path: Path, records: list[Record], make_model: Callable[..., Path]
) -> None:
    teacher = make_model(tmp_path / "teacher", seed=3)
    student = load(tiny, Chat.load(tiny), "cpu", "float32")
    records = [r for r in records if "☕" not in r.prompt[0].content]  # the parts of a character are one group
    lessons, _, _ = lessons_of(records, student.chat, 256)
    aligned = pairs(records, student.chat, student.chat)
    assert all(s == t and len(s) == 1 for pair in aligned for s, t in pair.groups)
    assert all(len(pair.groups) == pair.document.trained for pair in aligned)
    gold = FromForeign.of(student, teacher, "float32", "gold", beta=0.3, alpha=0.7, temperature=1.0)
    guide = Present.load(teacher, student.chat, "cpu", "float32")
    vocabulary = len(student.chat.tokenizer)
    plain = FromTeacher(replace(FAST, divergence="jsd", beta=0.3, alpha=0.7), student, guide, vocabulary)
    assert gold.weight(aligned) == plain.weight(lessons)
    assert gold.loss([aligned])[0].item() == pytest.approx(plain.loss([lessons])[0].item(), rel=1e-4)


def test_a_truncated_answer_is_compared_as_far_as_both_go(tiny: Path, foreigner: Path) -> None:
    ours, theirs = Chat.load(tiny), Chat.load(foreigner)
    long = [Record(prompt=user("?"), completion=assistant("far and dear " * 40))]
    (pair,) = pairs(long, ours, theirs, 64)
    sides = [len(d.ids[len(d) - d.trained :]) for d in (pair.document, pair.other)]
    assert 0 < pair.groups[-1][0].stop <= sides[0] and 0 < pair.groups[-1][1].stop <= sides[1]
    first, last = pair.groups[0], pair.groups[-1]
    ends = [d.ids[len(d) - d.trained :] for d in (pair.document, pair.other)]
    ours_said = ours.tokenizer.decode(ends[0][first[0].start : last[0].stop])
    assert ours_said == theirs.tokenizer.decode(ends[1][first[1].start : last[1].stop])


@pytest.mark.parametrize(("divergence", "alpha"), [("gold", 1.0), ("uld", 0.6)])
def test_a_student_learns_from_a_foreign_teacher(
    tiny: Path, foreigner: Path, records: list[Record], out: Path, divergence: str, alpha: float
) -> None:
    how = replace(FAST, divergence=divergence, alpha=alpha)
    how.fit(records, student=tiny, teacher=foreigner, out=out)
    assert kd.evaluate(out, records, length=256).nll < kd.evaluate(tiny, records, length=256).nll - 1


def test_what_does_not_go_across_vocabularies_is_refused(
    tiny: Path, foreigner: Path, records: list[Record], out: Path
) -> None:
    with pytest.raises(ConfigError, match="divergence=gold"):
        replace(FAST, divergence="forward_kl").fit(records, student=tiny, teacher=foreigner, out=out)
    with pytest.raises(ConfigError, match=r"alpha=0\.6"):
        replace(FAST, divergence="uld").fit(records, student=tiny, teacher=foreigner, out=out)
    with pytest.raises(ConfigError, match="neither a cache nor on_policy"):
        replace(FAST, on_policy=0.5).fit(records, student=tiny, teacher=foreigner, out=out)
