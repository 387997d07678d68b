"""Answers: what a worked solution ends in, and whether two of them are the same."""

from __future__ import annotations

import re
from fractions import Fraction

# "#### 72", "Answer: 72", "the answer is 72", "\boxed{72}": what stands before the final answer.
_MARKER = re.compile(r"####|\\boxed\s*\{|\banswer[*_]*\s*(?:is\b\s*:?|[:=])[*_]*", re.IGNORECASE)
# Whole, decimal, a fraction or 1e3, with commas between thousands; "12,5" and "1,2,3" are none.
_NUMBER = re.compile(
    r"(?<![\w.])(?<!\d[,/])-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))"
    r"(?:/[1-9]\d*|[eE][+-]?\d{1,3})?(?!\d|[.,/]\d|[eE][+-]?\d)"
)
# What makes the number that follows or comes before it a part of a formula: 2^10, \sqrt{2}, n-2, 2\pi, 2x, 2 * y.
_JOINED_BEFORE = re.compile(
    r"""(?: [\^_]\{? | \}\{ | \\(?:sqrt|[dt]?frac)\{ | \\(?:times|cdot|div|pm|sqrt|pi|log|ln)\s*
        | \b[a-zA-Z]\s*-\s* | [\w)}\]](?:[+*×·÷]|\s+[+*/×·÷]\s+) )$""",
    re.VERBOSE,
)
_JOINED_BEHIND = re.compile(
    r"""\^(?!\{?\\circ) | [({] | \s*(?:π|√|\\(?:pi|sqrt|[dt]?frac|times|cdot|div)|[inxyz]\b)
        | (?:[+*/×·÷]|\s+[-+*/×·÷]\s+)[\w(\\√]""",
    re.VERBOSE,
)
# "The answer is not 5", "it isn't exactly 5", "cannot be \\boxed{5}": what stands right before a number that is denied.
_DENIED = re.compile(r"(?:\b(?:can)?not|n['’]t|\bnever)[ \t]+(?:[a-z]+[ \t]+){0,2}[^\w\s]*$", re.IGNORECASE)
AROUND = 20  # characters before a number that are looked at
LEAD = 60  # and before one that may be denied
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
    has none), compared exactly ("1,234." is 1234, "0.50" is 1/2, "1e3" is 1000). Else: the same text, whatever its
    case, spacing and the punctuation round it. What the solution says not to be the answer never is.
    """
    if denied(text) and not denied(reference):
        return False
    wanted, given = final_answer(reference), final_answer(text)
    if (number := as_number(wanted)) is not None:
        return last_number(given) == number
    return bool(_bare(wanted)) and _bare(given) == _bare(wanted)


def denied(text: str) -> bool:
    """Whether what a text ends in is said not to be its answer ("The answer is not 5."). A denial that comes behind
    ("5 is wrong") is not seen."""
    text = _plain(text)
    marked = list(_MARKER.finditer(text))
    given = final_answer(text)
    numbers = list(_NUMBER.finditer(given))
    before = text[: marked[-1].start()] if marked else ""
    near = (before[-LEAD:], given[: numbers[-1].start()][-LEAD:] if numbers else "")
    return any(_DENIED.search(lead) for lead in near)


def as_number(answer: str) -> Fraction | None:
    """The number that is a final answer as a whole ("$1,234.50", "x = 5", "72 clips a day"); None for any other."""
    return last_number(answer) if _NUMERIC.match(_plain(answer)) else None


def ballot(text: str) -> str | None:
    """What a solution votes for: its final answer, so written that equal answers are equal texts ("1,234." and 1234).
    None where it has no answer marker, or nothing behind it, or denies it: what cannot be read is no vote."""
    if not _MARKER.search(text) or denied(text):
        return None
    given = final_answer(text)
    number = as_number(given)
    return str(number) if number is not None else _bare(given) or None


def last_number(text: str) -> Fraction | None:
    """The last number in a text, exactly; None where there is none, or where it is but a part of a formula, as in
    2\\sqrt{2}."""
    text = _plain(text)
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    last = found[-1]
    if _JOINED_BEFORE.search(text[: last.start()][-AROUND:]) or _JOINED_BEHIND.match(text, last.end()):
        return None
    try:
        return Fraction(last[0].replace(",", ""))
    except ValueError:  # of more digits than Python reads (sys.get_int_max_str_digits)
        return None


def _plain(text: str) -> str:
    """Typographic minus and LaTeX fractions as plain text; 1\\frac{1}{2} is left as it is, which is not 11/2."""
    return re.sub(r"(?<!\d)\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text.replace("−", "-"))


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
