"""A gate that holds answers against the passages that they are to be from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kdaug.errors import ConfigError, shorten
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.record import Drop, Json, Record, text_of
from kdaug.words import words

_QUOTE = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|«([^»\n]+)»|„([^“”\n]+)[“”]")
_CITED = re.compile(r"\[(\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*)\]")
# A sentence with the citations that stand behind its full stop.
_SENTENCE = re.compile(
    r"[^\n]+?(?:(?:[.!?][\"”’)]*(?:\s*\[\d[^\]\n]{0,40}\])*(?=\s|$))|[。！？](?:\s*\[\d[^\]\n]{0,40}\])*|$)",
    re.MULTILINE,
)
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?!\w)")
QUOTE_WORDS = 3  # shorter ones are a name or a word that is spoken of
# Words of any answer, in the languages of our heuristics' tests; what is left has to come from somewhere.
_FUNCTION_WORDS = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "both",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "may",
        "more",
        "most",
        "no",
        "not",
        "of",
        "on",
        "one",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "under",
        "up",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "will",
        "with",
        "would",
        "yes",
        "you",
        "your",
        "answer",
        "according",
        "passage",
        "text",
        "says",
        "stated",
    ]
)


@dataclass(frozen=True)
class Grounded(Gate):
    """Drops answers that say what their passages do not.

    The passages are in `meta[passages]`: a text, or a list of texts or of objects with a `text`. Looked at, in this
    order: passages that are cited as `[2]` are there (`grounded:citation`); what stands in quotation marks, from three
    words on, stands in a passage, whatever its case and spacing (`grounded:quote`); numbers of the answer occur in the
    passages or the prompt (`grounded:number`); of a sentence that cites, numbers and words are in the passages that it
    cites, or the prompt (`grounded:cited`); and of all words, but for function words, at least `min` are in the
    passages or the prompt (`grounded:words`), which is `scores["grounded"]`. With `cite` an answer must cite.
    `grounded:no_passage`: there is none. It looks at words: an answer that turns their sense round, or puts a figure of
    the passages in another's place, is not found out (a judge may be).
    """

    passages: str = "passage"
    min: float = 0.6
    quotes: bool = True
    numbers: bool = True
    cite: bool = False

    name: ClassVar[str] = "grounded"

    def __post_init__(self) -> None:
        if not 0 <= self.min <= 1:
            raise ConfigError(f"grounded: min {self.min} must be from 0 to 1")

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        passages = passages_of(record, self.passages)
        if not passages:
            return Prepared(record, Drop("grounded:no_passage"))
        answer = text_of(record.completion)
        known = " ".join((*passages, text_of(record.prompt)))
        share, missing = shared(answer, known)
        drop = self._cited(answer, len(passages)) or self._quoted(answer, passages) or self._numbered(answer, known)
        if drop is None:
            drop = self._elsewhere(answer, passages, text_of(record.prompt))
        if drop is None and share < self.min:
            drop = Drop("grounded:words", {"share": share, "min": self.min, "missing": [*missing[:20]]})
        return Prepared(record.scored(grounded=share), drop)

    def _cited(self, answer: str, count: int) -> Drop | None:
        cited = cited_in(answer)
        if self.cite and not cited:
            return Drop("grounded:citation", {"passages": count, "cited": None})
        wrong = next((n for n in cited if not 1 <= n <= count), None)
        return None if wrong is None else Drop("grounded:citation", {"passages": count, "cited": wrong})

    def _elsewhere(self, answer: str, passages: Sequence[str], prompt: str) -> Drop | None:
        """A sentence that cites passages which do not say it, with what they lack."""
        for sentence in _SENTENCE.findall(answer):
            if not (cited := cited_in(sentence)):
                continue
            known = " ".join((*(passages[n - 1] for n in cited), prompt))
            share, missing = shared(sentence, known)
            number = self._numbered(sentence, known)
            if number is not None or share < self.min:
                lacks = [number.detail["number"]] if number is not None else missing[:20]
                return Drop(
                    "grounded:cited", {"sentence": shorten(sentence.strip(), 300), "cited": [*cited], "missing": lacks}
                )
        return None

    def _quoted(self, answer: str, passages: Sequence[str]) -> Drop | None:
        there = [_bare(passage) for passage in passages]
        for groups in _QUOTE.findall(answer) if self.quotes else ():
            quote = next(filter(None, groups))
            # An ellipsis leaves something out.
            pieces = [_bare(piece) for piece in re.split(r"\[?(?:\.{3}|…)\]?", quote)]
            if len(quote.split()) >= QUOTE_WORDS and not any(_holds(text, pieces) for text in there):
                return Drop("grounded:quote", {"quote": shorten(quote, 300)})
        return None

    def _numbered(self, answer: str, known: str) -> Drop | None:
        there = {_value(n) for n in _NUMBER.findall(known)}
        said = _NUMBER.findall(_CITED.sub("", re.sub(r"^\s*\d{1,2}[.)]\s", "", answer, flags=re.MULTILINE)))
        wrong = next((n for n in said if _value(n) not in there), None) if self.numbers else None
        return None if wrong is None else Drop("grounded:number", {"number": wrong})


def cited_in(text: str) -> list[int]:
    """The numbers that a text cites: `[2]`, `[1, 3]`, `[2-4]`, each once."""
    found: dict[int, None] = {}
    for group in _CITED.findall(text):
        for first, last in re.findall(r"(\d+)(?:\s*[–-]\s*(\d+))?", group):
            found.update(dict.fromkeys(range(int(first), int(last or first) + 1)))
    return [*found]


def passages_of(record: Record, field: str) -> list[str]:
    """The passages in a record's `meta`; none where there are none."""
    found = record.meta.get(field)
    pieces = found if isinstance(found, list) else [found]
    texts = [piece.get("text") if isinstance(piece, dict) else piece for piece in pieces]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def shared(answer: str, known: str) -> tuple[float, list[Json]]:
    """Which share of an answer's content words occurs in what is known, and those that do not."""
    said = [word for word in words(_CITED.sub(" ", answer)) if word not in _FUNCTION_WORDS and not word.isdigit()]
    there = set(words(known))
    missing: list[Json] = [word for word in dict.fromkeys(said) if word not in there and _stem(word) not in there]
    absent = set(missing)
    return (sum(word not in absent for word in said) / len(said) if said else 1.0), missing


def _stem(word: str) -> str:
    """The singular, roughly, so that "rivers" is found in a text about a river."""
    return word[:-1] if word.endswith("s") and len(word) > 3 else f"{word}s"


def _bare(text: str) -> str:
    return " ".join(words(text))


def _holds(text: str, pieces: Sequence[str]) -> bool:
    """Whether the pieces come one after the other in a text, as whole words."""
    padded, at = f" {text} ", 0
    for piece in pieces:
        found = padded.find(f" {piece} ", at) if piece else at
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _value(number: str) -> str:
    """The digits alone, so that "1,200" is 1200; a decimal point between others stays as it is."""
    return re.sub(r",(?=\d{3}(?:\D|$))", "", number)
