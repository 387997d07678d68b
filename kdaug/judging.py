"""Judging: a model's marks and verdicts, read strictly. A reply without one is a `ParseError`, never a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kdaug.errors import ParseError
from kdaug.generator import Generate
from kdaug.prompts import converse
from kdaug.record import Record, text_of
from kdaug.teacher import Completion

# Finds "Score: 4", "**Score:** 4/5", "Score (1-5): <4>."; _NO_END may not follow: "1-5", "4,5", "4th", "4 or 5".
_SCORE = re.compile(
    r"\bscore\s*(?:\([^)\n]*\)\s*)?[*_`\"']*\s*[:=][\s*_`<\[(\"']*"
    r"(?P<score>[-+]?\d+(?:\.\d+)?)(?P<after>[^\n]*)",
    re.IGNORECASE,
)
_OUT_OF = re.compile(r"[*_`>\])]*\s*(?:/|out of)\s*[*_`]*(\d+)(?P<after>.*)", re.IGNORECASE)
_NO_END = re.compile(r"\w|[.,]\d|%|\s*[-–—]\s*\d|\s+or\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's mark, why, and the reply that says so."""

    score: float
    rationale: str
    completion: Completion


def parse_score(text: str, low: float, high: float, half: bool = False) -> float:
    """The mark of the last "Score: n" in a judge's reply: a whole number from `low` to `high`, with `half` also n.5.

    Only the last one counts: "I give it 5. Score: 3" is 3. Raises ParseError when there is none, or when it is off the
    scale ("Score: 42", "Score: 4/10" on a scale of 5, "Score: 1-5").
    """
    return _last_score(text, low, high, half)[0]


def _last_score(text: str, low: float, high: float, half: bool) -> tuple[float, int]:
    """The mark, and where in the text its line of judgement begins."""
    found = list(_SCORE.finditer(text))
    if not found:
        raise ParseError("score", text)
    score, after = float(found[-1]["score"]), found[-1]["after"]
    if out_of := _OUT_OF.match(after):
        after = out_of["after"]
        if float(out_of[1]) != high:
            raise ParseError("score", text)
    step = 0.5 if half else 1.0
    if _NO_END.match(after) or not low <= score <= high or score % step:
        raise ParseError("score", text)
    return score, found[-1].start()


def parse_choice(text: str, choices: Sequence[str]) -> str:
    """The last verdict in a judge's reply: "Verdict: <choice>", a choice alone on its line, or "they are <choice>.".

    Raises ParseError when there is none: "they are not quite equal" names neither "equal" nor "not equal".
    """
    one = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    verdict = re.compile(
        rf"\bverdict\W*?[:=]\W*(?P<said>{one})\b(?!\s*(?:/|\||or\b))"
        rf"|\b(?:is|are) (?P<told>{one})(?=[.!]|\s*$)"
        rf"|^\W*(?P<alone>{one})\W*$",
        re.IGNORECASE | re.MULTILINE,
    )
    found = list(verdict.finditer(text))
    if not found:
        raise ParseError("verdict", text)
    said = (found[-1]["said"] or found[-1]["told"] or found[-1]["alone"]).lower()
    return next(choice for choice in choices if choice.lower() == said)


async def grade(
    record: Record,
    generate: Generate,
    *,
    role: str = "judge",
    template: str = "judge/grade",
    rubric: str = "",
    low: int = 1,
    high: int = 5,
    half: bool = False,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int = 1024,
) -> Verdict:
    """One model's mark for a record's completion (for its prompt, where it has none), reasons first.

    `rubric` says what to judge by, in place of the template's own. Raises ParseError (`parse:score`) when the reply has
    no legal mark or was cut, and TeacherError.
    """

    response = None if record.completion is None else text_of(record.completion)
    question = converse(
        template, prompt=text_of(record.prompt), response=response, rubric=rubric, low=low, high=high, half=half
    )
    reply = await generate(question, role=role, temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    if reply.cut:
        raise ParseError("score", reply.text)
    score, start = _last_score(reply.text, low, high, half)
    return Verdict(score, reply.text[:start].strip(" \n*#_"), reply)


def leaked(text: str, phrases: Sequence[str], given: str) -> str | None:
    """The first of `phrases` (words of our own prompts) that `text` copies, unless what it was `given` has it too."""
    text, given = text.lower(), given.lower()
    return next((phrase for phrase in phrases if phrase in text and phrase not in given), None)
