"""Records: identity, lineage, and the way through JSON."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kdaug.record import Message, Record, ToolCall, assistant, system, text_of, user
from kdaug.teacher import Completion

texts = st.text(st.characters(codec="utf-8"), max_size=40)
calls = st.builds(ToolCall, texts, texts, texts)
messages = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    texts,
    st.lists(calls, max_size=2).map(tuple),
    st.none() | texts,
)
several = st.lists(messages, min_size=1, max_size=3).map(tuple)
records = st.builds(
    Record,
    prompt=several,
    completion=st.none() | several,
    rejected=st.none() | several,
    label=st.none() | st.booleans(),
    scores=st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    parents=st.lists(texts, max_size=2).map(tuple),
    roots=st.lists(texts, max_size=2).map(tuple),
    by=texts.filter(bool),
    teachers=st.lists(texts, max_size=2).map(tuple),
    replies=st.lists(texts, max_size=2).map(tuple),
    meta=st.dictionaries(texts, st.none() | texts | st.integers(-9, 9), max_size=2),
)


@given(records)
def test_json_keeps_everything(record: Record) -> None:
    again = Record.from_json(record.to_json())
    assert again == record
    assert again.id == record.id


def test_the_id_is_the_text_and_nothing_else() -> None:
    record = Record(prompt=user("a"), completion=assistant("b"))
    assert replace(record, scores={"x": 1.0}, by="other", meta={"m": 1}, teachers=("t",)).id == record.id
    changed = [
        replace(record, prompt=user("A")),
        replace(record, completion=assistant("B")),
        replace(record, rejected=assistant("b")),
        replace(record, label=True),
        replace(record, tools=({"name": "f"},)),
        replace(record, prompt=(*system(""), *user("a"))),
    ]
    assert len({record.id, *(c.id for c in changed)}) == len(changed) + 1


def test_a_child_knows_its_parents_roots_teachers_and_replies() -> None:
    seed, other = Record(prompt=user("seed")), Record(prompt=user("other"))
    first = Completion("x", teacher="local:a", key="0/0//h/0")
    second = Completion("y", teacher="local:b", key="1/0//h/0")
    child = seed.child(other, by="g", prompt=user("x"), replies=[first])
    grandchild = child.child(by="respond", completion=assistant("y"), replies=[second])
    assert child.parents == child.roots == (seed.id, other.id)
    assert grandchild.parents == (child.id,)
    assert grandchild.roots == (seed.id, other.id)
    assert grandchild.teachers == ("local:a", "local:b")
    assert grandchild.replies == ("1/0//h/0",)
    assert child.child(other, by="g").roots == (seed.id, other.id)


def test_scores_stay_with_the_text_that_they_were_given_for() -> None:
    record = Record(prompt=user("a")).scored(novelty=0.5)
    answered = record.child(by="respond", completion=assistant("b"))
    assert answered.scores == {"novelty": 0.5}
    assert answered.child(by="respond", completion=assistant("c")).scores == {}
    assert record.child(by="evolve", prompt=user("z")).scores == {}


def test_kinds() -> None:
    record = Record(prompt=user("a"))
    assert record.kind == "prompt"
    assert replace(record, completion=assistant("b")).kind == "completion"
    assert replace(record, completion=assistant("b"), label=False).kind == "unpaired"
    assert replace(record, completion=assistant("b"), rejected=assistant("c")).kind == "preference"


def test_text_of_one_and_of_several_messages() -> None:
    assert text_of(user("a")) == "a"
    assert text_of((*system("s"), *user("a"))) == "system: s\n\nuser: a"
    assert text_of(None) == ""
