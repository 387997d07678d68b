"""Fusion and rewriting: a new text is none that copies, strays, or loses its label."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from scripted import Scripted

from kdaug.errors import BadRequest, ConfigError
from kdaug.generators.fusion import Fusion
from kdaug.generators.rewrite import Rewrite
from kdaug.record import Discarded, Record, assistant, system, text_of, user
from kdaug.teacher import Completion

FIRST, SECOND = Record(prompt=user("Plan a week of cheap meals.")), Record(prompt=user("Explain how interest adds up."))
FUSED = "Show how interest would grow on what I save by a week of cheaper meals that you plan."


def fuse(fused: Any = FUSED, verdicts: tuple[str, ...] = ("not equal", "not equal")) -> Any:
    said = iter(verdicts)

    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        return f"Verdict: {next(said)}" if role == "judge" else fused

    (made,) = asyncio.run(Fusion()([FIRST, SECOND], Scripted(reply), Random(0)))
    return made


def test_a_fusion_is_of_both_parents() -> None:
    made = fuse(f"New instruction: {FUSED}")
    assert text_of(made.prompt) == FUSED and made.parents == made.roots == (FIRST.id, SECOND.id)
    assert made.kind == "prompt" and made.meta == {}


@pytest.mark.parametrize(
    ("fused", "verdicts", "reason"),
    [
        ("Plan a week of very cheap meals.", (), "fusion:copy"),
        (FUSED, ("equal",), "fusion:one_sided"),
        (FUSED, ("not equal", "equal"), "fusion:one_sided"),
        ("", (), "fusion:empty"),
        (f"The new instruction joins both: {FUSED}", (), "fusion:meta"),
        (Completion("Show how", finish_reason="length"), (), "fusion:cut"),
    ],
)
def test_what_is_of_one_alone_is_discarded(fused: Any, verdicts: tuple[str, ...], reason: str) -> None:
    assert fuse(fused, verdicts).drop.reason == reason


def test_a_fusion_has_two_parents() -> None:
    with pytest.raises(ConfigError, match="two parents"):
        asyncio.run(Fusion()([FIRST], Scripted(lambda *_: ""), Random(0)))


GIVEN = "The service was slow and the soup was cold, but the waiter was kind."
OTHER = "Although our waiter was friendly, we waited long and got chilly soup."
REVIEW = Record(prompt=(*system("Classify."), *user(GIVEN)), completion=assistant("negative"), scores={"a": 1.0})
LABELS = ("negative", "positive")


def rewrite(text: Any, mark: str = "Score: 5", label: str = "negative", record: Record = REVIEW, **fields: Any) -> Any:
    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        if "schema" in sampling:
            return label
        if role == "judge":
            return mark
        return "Le service …" if "into French" in prompt else text

    generate = Scripted(reply)
    fields = {"operators": ("paraphrase",), "labels": LABELS, "languages": ("French",), **fields}
    made = list(asyncio.run(Rewrite(**fields)([record], generate, Random(0))))
    return made, generate


def reason(made: Any) -> str:
    return made.drop.reason if isinstance(made, Discarded) else "kept"


def test_a_paraphrase_keeps_its_label_and_what_stands_before_it() -> None:
    (made,), generate = rewrite(OTHER)
    assert made.prompt == (*system("Classify."), *user(OTHER)) and made.completion == REVIEW.completion
    assert made.by == "rewrite/paraphrase" and not made.scores
    labelling = next(call for call in generate.calls if "schema" in call.sampling)
    assert labelling.sampling["schema"] == list(LABELS) and '"negative"' not in labelling.prompt


def test_the_identity_is_a_copy_and_other_words_of_another_meaning_stray() -> None:
    assert reason(rewrite(GIVEN)[0][0]) == "rewrite:copy"
    assert reason(rewrite(GIVEN.upper())[0][0]) == "rewrite:copy"
    assert reason(rewrite("Trains leave at noon.", mark="Score: 1")[0][0]) == "rewrite:meaning"


def test_a_flipped_label_is_lost_unless_it_is_wanted() -> None:
    assert reason(rewrite(OTHER, label="positive")[0][0]) == "rewrite:label"
    (made,), _ = rewrite(OTHER, label="positive", operators=("counterfactual",))
    assert made.by == "rewrite/counterfactual" and text_of(made.completion) == "positive"
    assert reason(rewrite(OTHER, label="negative", operators=("counterfactual",))[0][0]) == "rewrite:label"


def test_a_back_translation_is_two_calls() -> None:
    (made,), generate = rewrite(OTHER, operators=("back_translation",))
    assert len(made.replies) == 2 and "Le service …" in generate.prompts[1] and text_of(made.prompt[1:]) == OTHER


def test_each_operator_stands_by_itself() -> None:
    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> Any:
        if role == "judge":
            return "Score: 4"
        return BadRequest("no") if "into German" in prompt else OTHER

    made = asyncio.run(Rewrite(languages=("German",))([REVIEW], Scripted(reply), Random(0)))
    assert [reason(m) for m in made] == ["kept", "teacher:bad_request"]


def test_mistakes() -> None:
    with pytest.raises(ConfigError, match="counterfactual needs labels"):
        Rewrite(operators=("counterfactual",))
    with pytest.raises(ConfigError, match="operators must be of"):
        Rewrite(operators=("shout",))
    (made,), generate = rewrite(OTHER, record=Record(prompt=user(GIVEN), completion=assistant("mixed")))
    assert reason(made) == "rewrite:unknown_label" and not generate.calls


class Vectors:
    """Unit vectors by text: the first coordinate is the cosine with the original."""

    def embed(self, texts: list[str]) -> Any:
        import numpy as np

        cosines = {GIVEN: 1.0, OTHER: 0.6}
        return np.array([[c, (1 - c * c) ** 0.5] for c in (cosines.get(text, 0.1) for text in texts)])


def test_by_embeddings_the_floor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdaug.generators.rewrite.Embedder", Vectors)
    assert reason(rewrite(OTHER, meaning="embedding", floor=0.6)[0][0]) == "kept"
    assert reason(rewrite(OTHER, meaning="embedding", floor=0.61)[0][0]) == "rewrite:meaning"
    assert reason(rewrite("Trains leave at noon.", meaning="embedding")[0][0]) == "rewrite:meaning"
