"""A corpus of instructions and sentences that a script writes itself, with near-copies planted in it.

Words are made of syllables and drawn by Zipf's law, as words of a language are; the sentences are ours. Sentences that
people wrote are in the docstrings of the packages that are installed.
"""

from __future__ import annotations

import random
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

VOCABULARY = 60_000
PLANTED = 0.2  # of the texts are near-copies of an earlier one
VERBS = ("Write", "Draft", "Explain", "Outline", "Compare", "Suggest", "Rewrite", "Plan", "Describe", "Summarise")
FORMS = (
    *("a short story", "a letter", "a lesson", "a report", "a dialogue", "a recipe", "a speech", "a set of questions"),
    *("a product description", "a function in Python", "a query in SQL", "a plan for a week", "a guide in five steps"),
)
TAILS = (
    *("in no more than 100 words", "for somebody who is new to it", "with three examples", "in a formal tone"),
    *("without technical terms", "as a numbered list", "and say why", "from the point of view of a child"),
)
JOINTS = ("the", "a", "of", "in", "and", "with", "to", "that", "is", "by", "for", "on", "from", "as", "at", "its")
SYLLABLES = [c + v + e for c in "bdfgklmnprstvz" for v in "aeiou" for e in ("", "n", "r", "s", "l")]


_DOCSTRING = re.compile(r'"""(.+?)"""', re.DOTALL)


def docstrings(most: int) -> list[str]:
    """Different sentences of 5 to 40 words from the docstrings of the installed packages and Python's own, shuffled."""
    found: dict[str, None] = {}
    for folder in dict.fromkeys(map(sysconfig.get_path, ("purelib", "stdlib"))):
        for path in sorted(Path(folder).rglob("*.py")):
            for body in _DOCSTRING.findall(path.read_text("utf-8", errors="ignore")[:400_000]):
                text = " ".join(body.split(">>>")[0].split())
                for sentence in re.split(r"(?<=[.!?])\s+", text):
                    letters = sum(c.isalpha() or c == " " for c in sentence)
                    if 5 <= sentence.count(" ") + 1 <= 40 and letters > 0.85 * len(sentence):
                        found[sentence] = None
            if len(found) >= most:
                break
    sentences = list(found)
    random.Random(0).shuffle(sentences)
    print(f"{len(sentences):,} sentences of docstrings", file=sys.stderr)
    return sentences[:most]


class Writer:
    """Writes texts one after the other; the same `seed` writes the same."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        made: dict[str, None] = {}
        while len(made) < VOCABULARY:
            made["".join(self._rng.choices(SYLLABLES, k=self._rng.randint(2, 4)))] = None
        self._words = list(made)
        self._at = [0.0]
        for place in range(1, VOCABULARY + 1):  # Zipf's law with the usual shift
            self._at.append(self._at[-1] + 1 / (place + 2.7))
        self._at.pop(0)

    def texts(self, number: int, real: Sequence[str] = ()) -> Iterator[str]:
        """60 % of the new ones are from `real`, while there are any left there."""
        rng, earlier, left = self._rng, list[str](), iter(real)
        for _ in range(number):
            if earlier and rng.random() < PLANTED:
                text = self._edited(rng.choice(earlier))
            else:
                text = (next(left, "") if real and rng.random() < 0.6 else "") or self._new()
            earlier.append(text)
            yield text

    def _new(self) -> str:
        rng = self._rng
        if rng.random() < 0.4:
            about = f"the {' of the '.join(self._draw(rng.randint(1, 3)))}"
            where = f"that {rng.choice(JOINTS)} {' '.join(self._draw(rng.randint(1, 4)))}"
            return f"{rng.choice(VERBS)} {rng.choice(FORMS)} about {about} {where} {rng.choice(TAILS)}."
        made = []
        for word in self._draw(rng.randint(5, 20)):
            if rng.random() < 0.6:
                made.append(rng.choice(JOINTS))
            made.append(word)
        return " ".join(made).capitalize() + "."

    def _edited(self, text: str) -> str:
        """One to three words replaced, left out, put in or swapped."""
        rng, made = self._rng, text.split()
        for _ in range(rng.choice((1, 1, 2, 2, 3))):
            at, kind = rng.randrange(len(made)), rng.random()
            if kind < 0.5:
                made[at] = self._draw(1)[0]
            elif kind < 0.75 and len(made) > 4:
                del made[at]
            elif kind < 0.9:
                made.insert(at, self._draw(1)[0])
            elif at:
                made[at - 1], made[at] = made[at], made[at - 1]
        return " ".join(made)

    def _draw(self, number: int) -> list[str]:
        return self._rng.choices(self._words, cum_weights=self._at, k=number)
