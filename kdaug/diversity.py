"""How varied a set of texts is, by its words: pure functions, each with its definition and its source."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from kdaug.words import words

if TYPE_CHECKING:
    import numpy as np

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

Tokens: TypeAlias = Sequence[str]
WORDS = 256  # of each text, for what compares texts in pairs: about what a sentence encoder reads


def tokens_of(text: str) -> list[str]:
    """The first 256 words, in lower case, of any script."""
    return words(text[: 16 * WORDS])[:WORDS]


def ngrams(tokens: Tokens, n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)


def distinct(texts: Iterable[Tokens], n: int) -> float | None:
    """Distinct-n: different n-grams divided by all n-grams (Li et al. 2016, arXiv 1510.03055, §4.2), 0 to 1.

    It falls as a set grows, so only sets of like size compare. None where there is no n-gram.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for tokens in texts:
        grams = list(ngrams(tokens, n))
        seen.update(grams)
        total += len(grams)
    return len(seen) / total if total else None


def self_bleu(texts: Sequence[Tokens]) -> float | None:
    """Self-BLEU: the mean of each text's BLEU-4 with all others as references (Zhu et al. 2018, arXiv 1802.01886, §2).

    1 is a set of copies, 0 one that shares nothing. Equal to NLTK's `sentence_bleu` with uniform weights and its
    smoothing method 1 (0.1 matches where there are none), but linear in the number of texts. None for under two.
    """
    texts = [tokens for tokens in texts if tokens]
    if len(texts) < 2:
        return None
    best = [_two_most(texts, n) for n in range(1, 5)]
    lengths = Counter(map(len, texts))
    return sum(_bleu(tokens, best, lengths) for tokens in texts) / len(texts)


def _two_most(texts: Sequence[Tokens], n: int) -> dict[tuple[str, ...], tuple[int, int]]:
    """How often each n-gram is in the text that has it most, and in the next one: all that leaving one out needs."""
    most: dict[tuple[str, ...], tuple[int, int]] = {}
    for tokens in texts:
        for gram, count in Counter(ngrams(tokens, n)).items():
            first, second = most.get(gram, (0, 0))
            most[gram] = (count, first) if count > first else (first, max(second, count))
    return most


def _bleu(
    tokens: Tokens, best: Sequence[Mapping[tuple[str, ...], tuple[int, int]]], lengths: Mapping[int, int]
) -> float:
    logs = 0.0
    for n, most in enumerate(best, 1):
        hits = 0
        for gram, count in Counter(ngrams(tokens, n)).items():
            first, second = most[gram]
            hits += min(count, second if count == first else first)
        if n == 1 and hits == 0:
            return 0.0
        logs += math.log((hits or 0.1) / max(1, len(tokens) - n + 1)) / len(best)
    mine = len(tokens)
    others = (length for length, count in lengths.items() if count > (length == mine))
    nearest = min(others, key=lambda length: (abs(length - mine), length))
    return math.exp(logs + min(0.0, 1 - nearest / mine))


def rouge_matrix(texts: Sequence[Tokens], references: Sequence[Tokens]) -> Floats:
    """ROUGE-L F of every text with every reference, 2 LCS / (m + n) (Lin 2004): float64 [texts, references]."""
    import numpy as np
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    numbers: dict[str, int] = {}

    def coded(many: Sequence[Tokens]) -> list[tuple[int, ...]]:
        return [tuple(numbers.setdefault(word, len(numbers)) for word in tokens) for tokens in many]

    if not texts or not references:
        return np.zeros((len(texts), len(references)))
    common = cdist(coded(texts), coded(references), scorer=LCSseq.similarity, dtype=np.int32)
    sizes = np.add.outer([len(t) for t in texts], [len(r) for r in references])
    scores: Floats = 2.0 * common / np.maximum(sizes, 1)
    return scores


def nearest_others(similarity: Floats) -> Floats:
    """The similarity of each text to the one most like it, of a square matrix: float [texts]."""
    import numpy as np

    others = similarity.copy()
    np.fill_diagonal(others, -np.inf)
    nearest: Floats = others.max(axis=1)
    return nearest


def near_duplicates(similarity: Floats, threshold: float) -> float:
    """The share of the texts with an earlier one above the threshold, of a square matrix: what keep-first would drop
    at most."""
    import numpy as np

    return float((np.tril(similarity, -1) > threshold).any(axis=1).mean())


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that end a noun phrase: prepositions, conjunctions, question words, forms of be, have, do and the modals.
_BOUNDARY = _set(
    "about above across after against along among around as at before behind below between beyond by despite during "
    "except for from in inside into like near of off on onto out outside over per since than through throughout to "
    "toward towards under until up upon using via vs with within without and or but nor so that which who whom whose "
    "what when where why how if whether because while although though is are was were be been being has have had do "
    "does did can could will would should may might must not it he she they we you i then also please"
)
_DETERMINER = _set("a an the this that these those some any each every all both no another my your his its our their")
_INDIRECT = _set("me us him them")  # "give me a list"
_PARTICLE = _set("down out up off")  # "write down a list"
_NOT_A_VERB = (
    _BOUNDARY
    | _DETERMINER
    | _INDIRECT
    | _set("there here one two three yes no dear hello hi thanks good first next finally given")
) - {"please", "do", "like"}
_POLITE = re.compile(
    r"^(?:please|kindly|now|then|can you|could you|would you|will you|i (?:want|need|would like) you to|your task is to"
    r"|you are asked to|help me(?: to)?|let's|let us)[,:]?\s+",
    re.IGNORECASE,
)
_PHRASE = re.compile(r"[A-Za-z][A-Za-z'’-]*|\d[\w.,%-]*\w|\d|[^\sA-Za-z0-9]")
_SAME = _set("series species news physics mathematics economics politics lens bus gas")


def verb_noun(instruction: str) -> tuple[str, str] | None:
    """The leading imperative verb and the head noun of its first object: ("write", "story"); None where there is none.

    Self-Instruct's figure (arXiv 2212.10560, §2.4 and appendix) takes the root verb and its direct object from a
    constituency parser. This is a rule of ours for English, without a parser: the first word, after "please" and the
    like, where a noun phrase follows it; its last word before a preposition, a conjunction or a mark is the noun. A
    question, a statement and "Explain how to …" have no pair.
    """
    text = instruction.strip()[:400]
    while (shorter := _POLITE.sub("", text)) != text:
        text = shorter
    found = _PHRASE.findall(text)
    if len(found) < 2 or not found[0].isalpha() or not found[0].isascii():
        return None
    verb = found[0].lower()
    if verb in _NOT_A_VERB or len(verb) < 2 or verb.endswith(("ing", "ly")):
        return None
    noun = _head_noun(found[1:])
    return (verb, noun) if noun else None


def _head_noun(following: Sequence[str]) -> str | None:
    phrase: list[str] = []
    for place, token in enumerate(following):
        word = token.lower()
        if not phrase and (word in _INDIRECT or (word in _PARTICLE and place == 0)):
            continue
        if word in _DETERMINER and not phrase:
            if word == "that" and place:
                break
            continue
        if token in "\"'“”‘’*_`" and not phrase:
            continue  # "the "best" scene"
        if word in _BOUNDARY or word in _DETERMINER or word in _INDIRECT or not token[0].isalnum():
            break
        if phrase and word.endswith(("ing", "ed")) and _ends_phrase(following, place):
            break
        phrase.append(word)
    nouns = [word for word in phrase if word[0].isalpha() and not word.endswith("ly")]
    if not nouns or (len(phrase) > 1 and nouns[-1] != phrase[-1] and not phrase[-1][0].isdigit()):
        return None
    return singular(nouns[-1])


def _ends_phrase(following: Sequence[str], place: int) -> bool:
    """Whether the participle here begins a clause ("a poem inspired by …"), unlike in "new printed books"."""
    after = following[place + 1].lower() if place + 1 < len(following) else "."
    return after in _BOUNDARY or after in _DETERMINER or not after[0].isalnum()


def singular(noun: str) -> str:
    """An English noun without its plural ending, by rule."""
    noun = re.sub(r"['’]s?$", "", noun)
    if noun in _SAME or len(noun) < 4 or not noun.endswith("s") or noun.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y" if len(noun) > 4 else noun[:-1]
    if noun.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return noun[:-2]
    return noun[:-1]


def opening(tokens: Tokens, length: int = 3) -> str:
    """The first words, by which a set's sameness of form shows ("write a short")."""
    return " ".join(tokens[:length])


# A closing mark, bracket or quotation of any script, a code fence, a symbol or an emoji ends a text; these do not.
_OPEN_END = re.compile(r"[\w,;:(\[{/&–—-]\Z")
_ITEM = re.compile(r"\s*(?:[-*•+#|>]|\(?\w{1,3}[.):])\s?")
_ENDS_FROM = 20  # words: a shorter answer ("Paris") needs no full stop


def cut_off(answer: str) -> bool:
    """Whether an answer looks cut off: 20 words or more that end within a sentence, or in an open code block.

    A heuristic: an item of a list, a heading and a row of a table end as they like. A script without spaces counts its
    characters.
    """
    text = answer.rstrip().rstrip("*_").rstrip()
    if len(tokens_of(text)) < _ENDS_FROM:
        return False
    if len(re.findall(r"^\s*```", text, re.MULTILINE)) % 2:
        return True
    last = text[text.rfind("\n") + 1 :]
    if last.endswith((",", ";", "(", "[", "{")):
        return True
    return bool(_OPEN_END.search(last)) and not _ITEM.match(last) and len(tokens_of(last)) > 3
