"""Task files: prompts with reference answers, or with choices of which one is right, and how a reply is marked.

{"prompt": "What is 2 + 3?", "completion": "5"}                     any shape that kdaug.read knows, with its answer
{"prompt": "The capital of Italy?", "answer": ["Rome", "Roma"]}     or with `answer`: a text, or several that count
{"prompt": "Which one floats?", "choices": ["stone", "cork"], "answer": 1}    the place (from 0), its letter, its text
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any
from unicodedata import normalize

from rapidfuzz.distance import LCSseq

from kdaug.answers import same_answer
from kdaug.errors import ConfigError
from kdaug.read import rows_of
from kdaug.record import Messages, text_of
from kdaug.shapes import BadRow, read_row, shape_of
from kdaug.words import words


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt and what a good reply is: any of `references`, or of `choices` the one at `right`."""

    prompt: Messages
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    right: int = 0

    @property
    def good(self) -> tuple[str, ...]:
        """The answers that count."""
        return (self.choices[self.right],) if self.choices else self.references


def read_tasks(source: str | Path, metric: str, split: str = "test") -> list[Task]:
    """The tasks of a file or dataset. Raises ConfigError for a metric that there is not, and for the first row that
    lacks what it needs; the place and the way out are named."""
    if metric not in (*MARKS, CHOICE):
        raise ConfigError(f"no metric {metric!r}: there are {', '.join((*MARKS, CHOICE))}")
    tasks = []
    for place, row in rows_of(source, split=split):
        try:
            tasks.append(_task(row, metric))
        except BadRow as e:
            raise ConfigError(f"{place}: {e}") from e
    if not tasks:
        raise ConfigError(f"{source} is empty: give at least one task")
    return tasks


def _task(row: Any, metric: str) -> Task:
    record = read_row(row, shape_of(row))
    answer, choices = row.get("answer"), _texts(row.get("choices"))
    if metric == CHOICE:
        if len(choices) < 2:
            raise BadRow('no "choices": give a list of two texts or more, and "answer", which of them is right')
        return Task(record.prompt, choices=choices, right=_place(answer, choices))
    if len(choices) > 1 and isinstance(answer, (int, str)):
        return Task(record.prompt, (choices[_place(answer, choices)],))  # a reply is held against its text
    references = _texts(answer) or ((text_of(record.completion),) if record.completion else ())
    if not references:
        raise BadRow(
            'no reference to hold a reply against: give a "completion", or "answer" with a text or a list of them'
        )
    return Task(record.prompt, references)


def _texts(value: Any) -> tuple[str, ...]:
    """A text, a number, or a list of them, as texts."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(str(one) for one in values if isinstance(one, (str, int, float)) and str(one).strip())


def _place(answer: Any, choices: Sequence[str]) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str):
        if answer in choices:
            return choices.index(answer)
        letter = ascii_uppercase.find(answer.strip().upper()) if len(answer.strip()) == 1 else -1
        if 0 <= letter < len(choices):
            return letter
    raise BadRow(
        f'"answer" is {answer!r}: give the place of the right choice (0 to {len(choices) - 1}), its letter or its text'
    )


def normalised(text: str) -> str:
    """As exact match compares: Unicode NFKC, case folded, white space as single spaces, and no quotes, stars or ends of
    a sentence around the whole."""
    plain = " ".join(normalize("NFKC", text).casefold().split())
    return re.sub(r"^[\"'`*_“”‘’«»]+|[\"'`*_“”‘’«».!?,;:。！？]+$", "", plain).strip()


def exact_match(reply: str, references: Sequence[str]) -> float:
    """1 where the reply is one of the references, as `normalised` has both, else 0."""
    return float(normalised(reply) in {normalised(reference) for reference in references})


def rouge_l(reply: str, references: Sequence[str]) -> float:
    """ROUGE-L's F (Lin 2004, ACL W04-1013, §3), balanced, over words without stemming: that of the best reference."""
    said = words(reply)
    return max(_rouge_l(said, words(reference)) for reference in references)


def _rouge_l(said: Sequence[str], wanted: Sequence[str]) -> float:
    return 2 * LCSseq.similarity(said, wanted) / (len(said) + len(wanted)) if said and wanted else 0.0


def answer(reply: str, references: Sequence[str]) -> float:
    """1 where the reply ends in the answer of one of the references (see `answers.same_answer`), else 0."""
    return float(any(same_answer(reply, reference) for reference in references))


CHOICE = "choice"
MARKS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": exact_match,
    "answer": answer,
    "rouge_l": rouge_l,
}
ABOUT = {
    "exact_match": "a reply counts where it is a reference but for case, white space and what stands around it "
    "(quotes, a full stop)",
    "answer": "a reply counts where it ends in the reference's answer: the last number after its answer marker, or the "
    "same text but for case, white space and what stands around it",
    "rouge_l": "F of the longest common subsequence of words, of the best reference",
    "choice": "the likeliest of the given answers, by the summed log-probability of its tokens (without the end of the "
    "turn), and by that divided by its length in characters (lm-eval's acc and acc_norm)",
}


def by_prompt(tasks: Sequence[Task]) -> Iterator[Messages]:
    """Every prompt once: greedy replies to equal prompts are equal."""
    return iter(dict.fromkeys(task.prompt for task in tasks))
