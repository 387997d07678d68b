"""Texts that are plainly in another language go, with what was found; readability is Flesch's formula."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from deciding import decisions
from scripted import Scripted

from kdaug.errors import ConfigError
from kdaug.gates.language import InLanguage
from kdaug.gates.readability import Readability, reading_ease
from kdaug.record import Record, assistant, user

NOBODY = Scripted(lambda *asked: AssertionError("nobody is asked"))
ENGLISH = "The tide comes in twice a day because the moon pulls the water towards it as the earth turns."
GERMAN = "Die Flut kommt zweimal am Tag, weil der Mond das Wasser anzieht, während sich die Erde dreht."
DUTCH = "De vloed komt twee keer per dag omdat de maan het water aantrekt terwijl de aarde draait."


def answers(*texts: str) -> list[Record]:
    return [Record(prompt=user("Why is there a tide?"), completion=assistant(text)) for text in texts]


def test_another_language_is_dropped_with_what_was_found() -> None:
    gate = InLanguage(accurate=False)
    english, german, dutch = decisions(gate, answers(ENGLISH, GERMAN, DUTCH))
    assert english is None
    assert german is not None and german.detail["score"] < 0.5
    assert german.reason == "language:other" and german.detail["found"] == "de"
    assert dutch is not None and dutch.detail["found"] == "nl"
    assert decisions(InLanguage(["de", "nl"], accurate=False), answers(GERMAN, DUTCH)) == [None, None]


def test_the_record_says_its_language_and_how_likely_the_wanted_ones_are() -> None:
    gate = InLanguage(["en", "fr"], accurate=False)
    prepared = asyncio.run(gate.prepare(answers(ENGLISH)[0], NOBODY))
    assert prepared.record.meta["language"] == "en" and prepared.record.scores["language"] == 1


def test_what_has_no_language_is_kept_and_a_blank_text_is_not() -> None:
    code = "```python\nfür = [wert für wert in liste]\n```"
    assert decisions(InLanguage(accurate=False), answers("12345", code)) == [None, None]
    (drop,) = decisions(InLanguage(on="completion", accurate=False), [Record(prompt=user("Hi"))])
    assert drop is not None and drop.reason == "language:empty"


@pytest.mark.slow
def test_the_accurate_models_tell_short_requests_apart() -> None:
    texts = ["Sort a list in Python.", "Escribe un poema sobre el mar.", "Écris un poème sur la mer."]
    found = decisions(InLanguage(["en"], on="prompt"), [Record(prompt=user(text)) for text in texts])
    assert [d.detail["found"] if d else None for d in found] == [None, "es", "fr"]


def test_reading_ease_by_hand() -> None:
    # 5 words in 1 sentence, 6 syllables: the hap-py cat sat down
    assert reading_ease("The happy cat sat down.") == round(206.835 - 1.015 * 5 - 84.6 * 6 / 5, 2)
    # 6 words in 2 sentences, 6 syllables, whatever the code says
    assert reading_ease("The cat sat. It was wet!\n```\nincomprehensible = 1\n```") == round(206.835 - 3.045 - 84.6, 2)
    assert reading_ease("Die Katze schläft.", "de") == round(180 - 3 - 58.5 * 4 / 3, 2)
    assert reading_ease("12 + 3 = 15") is None


def test_hard_and_easy_texts_are_dropped_and_length_is_a_score() -> None:
    easy = "The cat sat. It was wet."
    hard = "Institutional interdependencies characteristically necessitate multidimensional considerations."
    scored = asyncio.run(Readability().prepare(answers(easy)[0], NOBODY)).record.scores
    assert scored == {"words": 6.0, "reading_ease": 119.19}
    found = decisions(Readability(min=0, max=110), answers(easy, hard, "The happy cat sat down.", "42"))
    assert [d.reason if d else None for d in found] == ["readability:easy", "readability:hard", None, None]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: InLanguage(["english"]), "languages are codes among"),
        (lambda: InLanguage([]), "languages are codes"),
        (lambda: InLanguage(min=3), "min must be"),
        (lambda: Readability(language="xx"), "language must be one of en, de"),
        (lambda: Readability(min=50, max=10), "min 50 is more than max 10"),
    ],
)
def test_wrong_fields_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
