"""Judging: a model's marks and verdicts, read strictly. A reply without one is a `ParseError`, never a number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdaug.errors import ParseError
from kdaug.generator import Generate, settled
from kdaug.prompts import converse
from kdaug.record import Messages, Record, text_of
from kdaug.teacher import Completion

# Finds "Score: 4", "**Score:** 4/5", "Score (1-5): <4>."; _NO_END may not follow: "1-5", "4,5", "4th", "4 or 5".
_SCORE = re.compile(
    r"\bscore\s*(?:\([^)\n]*\)\s*)?[*_`\"']*\s*[:=][\s*_`<\[(\"']*"
    r"(?P<score>[-+]?\d+(?:\.\d+)?)(?P<after>[^\n]*)",
    re.IGNORECASE,
)
_OUT_OF = re.compile(r"[*_`>\])]*\s*(?:/|out of)\s*[*_`]*(\d+)(?P<after>.*)", re.IGNORECASE)
_ALONE = re.compile(
    r"\A[^\w+-]*(?:(?:score|rating|mark)\W+)?(?P<score>[-+]?\d+(?:\.\d+)?)(?P<after>[^\n]*)", re.IGNORECASE
)
_NO_END = re.compile(r"\w|[.,]\d|%|\s*[-–—]\s*\d|\s+or\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's mark, why, and the reply that says so."""

    score: float
    rationale: str
    completion: Completion


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two answers: `score` is 1 where the first is better, 0 where the second is, 0.5 for a tie. `orders`: the same
    as the judge said it when the first was shown first, and when it was shown second; they may disagree."""

    orders: tuple[float, float]
    rationale: str
    completions: tuple[Completion, Completion]

    @property
    def score(self) -> float:
        """Who wins in one order and loses in the other does not win: that is the judge's liking for a place."""
        there, back = self.orders
        return there if there == back else 0.5


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
    return _legal(found[-1], text, low, high, 0.5 if half else 1.0), found[-1].start()


def _legal(found: re.Match[str], text: str, low: float, high: float, step: float) -> float:
    score, after = float(found["score"]), found["after"]
    if out_of := _OUT_OF.match(after):
        after = out_of["after"]
        if float(out_of[1]) != high:
            raise ParseError("score", text)
    if _NO_END.match(after) or not low <= score <= high or score % step:
        raise ParseError("score", text)
    return score


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


async def mark(
    question: Messages, generate: Generate, *, role: str = "judge", low: int, high: int, max_tokens: int = 1024
) -> Verdict:
    """A model's mark without reasons, to a question that asks for nothing but a whole number from `low` to `high`.

    Where the teacher gives the probabilities of the marks it is their expected value (DEITA, arXiv 2312.15685, §2.2;
    G-Eval, arXiv 2303.16634, §2), else the mark that is said. Raises ParseError (`parse:score`) and TeacherError.
    """
    scale = [str(n) for n in range(low, high + 1)]
    reply = await generate(question, role=role, temperature=0.0, max_tokens=max_tokens, weigh=scale)
    found = _ALONE.match(reply.text)
    if found is None:
        raise ParseError("score", reply.text)
    said = _legal(found, reply.text, low, high, 1.0)
    # Probabilities of another place (a number in the model's thoughts) would not have what was said as the likeliest.
    certain = reply.weights.get(f"{said:.0f}", 0.0) >= max(reply.weights.values(), default=1.0)
    return Verdict(expected(reply.weights) if certain else said, "", reply)


def expected(weights: Mapping[str, float]) -> float:
    """The expected value of marks by their probabilities, which need not be of 1 in all."""
    return sum(float(n) * p for n, p in weights.items()) / sum(weights.values())


async def lean(
    first: Messages, second: Messages | None, generate: Generate, *, role: str = "judge"
) -> tuple[float, list[Completion]]:
    """How likely a judge finds option A the better one, from the probabilities of "A" and "B" as its first word
    (Constitutional AI, arXiv 2212.08073, §4.1): softmax of their log-probabilities.

    `first` is the question, `second` the same one with the options swapped: the two answers are averaged (RLAIF, arXiv
    2309.00267, §2.1.1), so that a liking for a place comes to 0.5. Raises ParseError (`parse:weights`) where the
    teacher tells no probabilities, and TeacherError.
    """
    leans, replies = [], []
    for question in (first, second):
        if question is None:
            continue
        reply = await generate(question, role=role, temperature=0.0, max_tokens=4, weigh=("A", "B"))
        there, other = reply.weights.get("A", 0.0), reply.weights.get("B", 0.0)
        if not there + other > 0:
            raise ParseError("weights", reply.text)
        leans.append((there if question is first else other) / (there + other))
        replies.append(reply)
    return sum(leans) / len(leans), replies


def rescaled(score: float, low: float, high: float) -> float:
    """A mark on [-1, 1] (direct RLAIF, arXiv 2309.00267, §2.2.2)."""
    return 2 * (score - low) / (high - low) - 1


async def compare(
    record: Record,
    other: Messages,
    generate: Generate,
    *,
    role: str = "judge",
    rubric: str = "",
    max_tokens: int = 1024,
) -> Comparison:
    """Whether a record's completion is better than `other`, which answers the same prompt. The judge is asked twice,
    with each of the two shown first: a verdict that turns with the order is a tie.

    Raises ParseError (`parse:verdict`) where either reply has no verdict or was cut, and TeacherError.
    """

    async def ask(first: Messages | None, second: Messages | None) -> Completion:
        question = converse(
            "pairwise/better",
            prompt=text_of(record.prompt),
            first=text_of(first),
            second=text_of(second),
            rubric=rubric,
        )
        return await generate(question, role=role, temperature=0.0, max_tokens=max_tokens)

    replies = []
    for reply in await settled([ask(record.completion, other), ask(other, record.completion)]):
        if not isinstance(reply, Completion):
            raise reply
        replies.append(reply)
    there, back = replies
    orders = (_won(there), 1.0 - _won(back))
    return Comparison(orders, there.text.strip(), (there, back))


def _won(reply: Completion) -> float:
    """Of the answer that was shown first."""
    if reply.cut:
        raise ParseError("verdict", reply.text)
    return {"A": 1.0, "B": 0.0, "tie": 0.5}[parse_choice(reply.text, ("A", "B", "tie"))]


def leaked(text: str, phrases: Sequence[str], given: str) -> str | None:
    """The first of `phrases` (words of our own prompts) that `text` copies, unless what it was `given` has it too."""
    text, given = text.lower(), given.lower()
    return next((phrase for phrase in phrases if phrase in text and phrase not in given), None)
