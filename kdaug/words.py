"""Words of a text in any script: what the lexical gates compare and count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from unicodedata import normalize

# Scripts written without spaces: every character counts as a word of its own.
# Kana, Han with its extensions, Thai, Lao, Myanmar, Khmer (Unicode 16, Blocks.txt, less their punctuation).
_ALONE = (
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
    "\u0e01-\u0e2e\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eae\u0eb0\u0eb2\u0eb3\u0ec0-\u0ec6"
    "\u1000-\u102a\u103f\u1780-\u17b3"
)
# Marks that `\w` does not know as part of a word: accents, points and vowel signs (Hebrew, Arabic, the Indic scripts).
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0971-\u0df3"
)

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_WORD = re.compile(rf"[{_ALONE}]|(?:[^\W_{_ALONE}]|[{_MARKS}])+")
_PIECE = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+")


def words(text: str) -> list[str]:
    """The words in lower case, without punctuation.

    For ASCII text these are rouge_score's tokens (split on what is neither letter nor digit, no stemming). Of other
    text rouge_score keeps only the ASCII letters and digits, so Chinese or Russian is nothing to it; here a word of any
    script is a word, and a character of a script that has no spaces is one. Look-alikes count as equal (Unicode NFKC).
    """
    if text.isascii():
        return ascii_words(text)
    return _WORD.findall(normalize("NFKC", text).lower())


def ascii_words(text: str) -> list[str]:
    """rouge_score's default tokens, of any text."""
    return _ASCII_WORD.findall(text.lower())


def count_words(text: str) -> int:
    """What a person calls the number of words: pieces between spaces, single characters where there are no spaces."""
    return len(_PIECE.findall(text))


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """ROUGE-L F1 of two texts by their words: 2 LCS / (m + n); 0 where either has none."""
    from rapidfuzz.distance import LCSseq

    if not one or not other:
        return 0.0
    return 2 * LCSseq.similarity(one, other) / (len(one) + len(other))
