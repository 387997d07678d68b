"""How likely each of a few words was where a reply says one of them: from the alternatives of its tokens, by text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import exp
from typing import Any, TypeAlias

from kdaug.teacher import TokenLogprobs

ALTERNATIVES = 20  # a token: the most that OpenAI's API and a vLLM server give
Token: TypeAlias = tuple[str, Sequence[tuple[str, float]]]  # its text; the likeliest in its place, log-probabilities
THOUGHT = "</think>"  # what a model thinks before its answer is no part of it


def weights_of(tokens: Iterable[Token], words: Sequence[str]) -> dict[str, float]:
    """The probabilities of `words`, of 1 in all, at the first token of the answer that is one of them, blanks aside.

    A word that is not among the alternatives has 0. Empty where no token is one of them.
    """
    told = list(tokens)
    start = 1 + max((i for i, (text, _) in enumerate(told) if THOUGHT in text), default=-1)
    place = next((alternatives for text, alternatives in told[start:] if text.strip() in words), ())
    sums = dict.fromkeys(words, 0.0)
    for text, logprob in place:
        if (word := text.strip()) in sums:
            sums[word] += exp(logprob)
    total = sum(sums.values())
    return {word: p / total for word, p in sums.items()} if total else {}


def spelled(view: TokenLogprobs, text_of: Callable[[list[int]], str]) -> Iterator[Token]:
    """The tokens of a view by their text."""
    for chosen, ids, logprobs in zip(view.token_ids, view.top_ids, view.top_logprobs, strict=True):
        texts = [text_of([int(i)]) for i in ids]
        yield text_of([int(chosen)]), list(zip(texts, map(float, logprobs), strict=True))


def read_tokens(choice: Mapping[str, Any]) -> Iterator[Token]:
    """The tokens in a choice of a chat completion; none where the server gives no log-probabilities."""
    for entry in (choice.get("logprobs") or {}).get("content") or ():
        yield entry["token"], [(t["token"], t["logprob"]) for t in entry.get("top_logprobs") or ()]
