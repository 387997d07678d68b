"""What a model will be trained on, to be looked at before it is: each token as it stands, trained or only seen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from kdaug.chat import Chat
from kdaug.train.batching import IGNORE, Document, Encoded
from kdaug.train.ranked import Lists, Ranked

TRAINED, SEEN, SPECIAL, PLAIN = "\x1b[32m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
SIDES = ("chosen", "rejected")


def inspect(data: Encoded, chat: Chat, samples: int, colour: bool, lists: Lists | None = None) -> str:
    """Some records spread over the data, or some of the `lists` that are ranked, and the counts of all.

    In `colour` what is trained is green, what is only seen is faint, and special tokens are bold; else what is trained
    stands between ⟦ and ⟧. Line ends are shown as ↵.
    """
    if lists is None:
        shown = [part for i in _spread(data.records, samples) for part in _record(data, i, chat, colour)]
    else:
        shown = [part for i in _spread(lists.units, samples) for part in _list(lists.units[i], chat, colour)]
    return "\n".join([*shown, *_counts(data, colour), *([] if lists is None else _ranked(lists))])


def _spread(everything: Sequence[object], samples: int) -> list[int]:
    """The places of so many, from the first on, evenly."""
    number = min(samples, len(everything))
    return [i * len(everything) // number for i in range(number)]


def _list(ranked: Ranked, chat: Chat, colour: bool) -> Iterator[str]:
    """The best answer first. Those with one score share their rank."""
    yield f"── {len(ranked.answers)} answers to one prompt"
    for document, score in sorted(zip(ranked.answers, ranked.scores, strict=True), key=lambda answer: -answer[1]):
        rank = 1 + sum(other > score for other in ranked.scores)
        yield f"rank {rank}, score {score:g}: record {document.record}: {_trained(document)}"
        yield _text(document, chat, colour)


def _ranked(lists: Lists) -> Iterator[str]:
    yield f"{len(lists.units):,} prompts with {sum(len(u.answers) for u in lists.units):,} answers are ranked; {lists}"


def _trained(document: Document) -> str:
    return f"{document.trained} of {len(document)} tokens trained"


def _record(data: Encoded, place: int, chat: Chat, colour: bool) -> Iterator[str]:
    documents = data.documents[place]
    for side, document in zip(SIDES, documents, strict=False):
        called = f"record {data.records[place]}" + (f", {side}" if len(documents) > 1 else "")
        yield f"── {called}: {_trained(document)}"
        yield _text(document, chat, colour)


def _text(document: Document, chat: Chat, colour: bool) -> str:
    """Targets are shifted: a token is trained where the position before it predicts it. A reward predicts none: it is
    read at the last token itself."""
    trained = [False, *(target != IGNORE for target in document.targets[:-1])]
    if document.targets[-1] != IGNORE:
        trained = [*[False] * (len(document) - 1), True]
    special = {*chat.tokenizer.all_special_ids, *chat.tokenizer.added_tokens_decoder}
    tokens = zip(document.ids, trained, strict=True)
    runs = groupby(tokens, lambda token: (token[1], colour and token[0] in special))
    pieces = []
    for (mine, bold), run in runs:
        text = _visible(chat.tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False))
        if colour:
            pieces.append(f"{TRAINED if mine else SEEN}{SPECIAL if bold else ''}{text}{PLAIN}")
        else:
            pieces.append(f"⟦{text}⟧" if mine else text)
    return "".join(pieces)


def _visible(text: str) -> str:
    """Line ends are seen, and no control character of the data's reaches the terminal."""
    shown = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda c: ascii(c[0])[1:-1], text)
    return shown.replace("\n", "↵\n")


def _counts(data: Encoded, colour: bool) -> Iterator[str]:
    legend = f"{TRAINED}trained{PLAIN}, {SEEN}only seen{PLAIN}" if colour else "⟦trained⟧, only seen"
    documents = [document for pair in data.documents for document in pair]
    sizes = sorted(len(document) for document in documents)
    yield f"── {legend}"
    yield (
        f"{len(data.records):,} records, {data.tokens:,} tokens, {data.trained:,} of them trained "
        f"({data.trained / data.tokens:.1%}); a text has {sizes[len(sizes) // 2]:,} (median), at most {sizes[-1]:,}"
    )
    yield f"{len(data.truncated):,} records are cut, {len(data.dropped):,} of them to nothing and left out"
    if data.alike:
        yield f"{len(data.alike):,} pairs are left out: their chosen and rejected answers are the same"
