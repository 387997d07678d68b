"""Answers: what a worked solution ends in, and whether two of them are the same."""

from __future__ import annotations

import re
from fractions import Fraction

# "#### 72", "Answer: 72", "the answer is 72", "\boxed{72}": what stands before the final answer.
_MARKER = re.compile(r"####|\\boxed\s*\{|\banswer[*_]*\s*(?:is\b\s*:?|[:=])[*_]*", re.IGNORECASE)
# Whole, decimal or a fraction, with commas between thousands; "12,5" and "1,2,3" are none.
_NUMBER = re.compile(r"(?<![\w.])(?<!\d[,/])-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:/[1-9]\d*)?(?!\d|[.,/]\d)")
# A number that stands for the whole answer: "$1,234.50", "x = 5", "72 clips a day"; not "Paris, 1889" or "1+x".
_BESIDE = r"[^\w+*/^=-]*"
_NUMERIC = re.compile(rf"^[^\w.-]*(?:\w+\s*=\s*)?[^\w.-]*{_NUMBER.pattern}{_BESIDE}(?:[^\W\d]+{_BESIDE}){{0,3}}$")


def final_answer(text: str) -> str:
    """What follows the last answer marker: the rest of its line, or what its braces hold; without one, all of it."""
    marked = list(_MARKER.finditer(text))
    if not marked:
        return text.strip()
    after = text[marked[-1].end() :].strip()
    if marked[-1][0].startswith("\\boxed"):
        return _within_braces(after)
    return after.splitlines()[0].strip() if after else ""


def same_answer(text: str, reference: str) -> bool:
    """Whether a solution ends in the reference's answer.

    Where the reference's answer is a number: the last number after the solution's marker (of the whole text, where it
    has none), compared exactly ("1,234." is 1234, "0.50" is 1/2). Else: the same text, whatever its case, spacing and
    the punctuation round it.
    """
    wanted, given = final_answer(reference), final_answer(text)
    if _NUMERIC.match(_plain(wanted)):
        number = last_number(given)
        return number is not None and number == last_number(wanted)
    return bool(_bare(wanted)) and _bare(given) == _bare(wanted)


def ballot(text: str) -> str | None:
    """What a solution votes for: its final answer, so written that equal answers are equal texts ("1,234." and 1234).
    None where it has no answer marker, or nothing behind it: what cannot be read is no vote."""
    if not _MARKER.search(text):
        return None
    given = final_answer(text)
    if _NUMERIC.match(_plain(given)):
        return str(last_number(given))
    return _bare(given) or None


def last_number(text: str) -> Fraction | None:
    """The last number in a text, exactly; None where there is none."""
    found = _NUMBER.findall(_plain(text))
    return Fraction(found[-1].replace(",", "")) if found else None


def _plain(text: str) -> str:
    """Typographic minus and LaTeX fractions as plain text."""
    return re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text.replace("−", "-"))


def _bare(text: str) -> str:
    text = "".join(_plain(text).casefold().split()).strip(".,;:!?*_`$\"'")
    return re.sub(r"^\((\w+)\)$", r"\1", text)  # option "(B)" is option B; an interval keeps its brackets


def _within_braces(text: str) -> str:
    """The text up to the brace that closes one opened before it."""
    depth = 1
    for place, char in enumerate(text):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return text[:place].strip()
    return text.strip()
