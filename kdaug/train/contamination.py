"""Whether a student has seen in training what it is measured by: texts of the evaluation that its records overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdaug.errors import ConfigError
from kdaug.overlap import Overlaps
from kdaug.record import Record, spoken
from kdaug.train.origin import records_again, short_name, trainings
from kdaug.words import words

NGRAM = 13  # words in a row: GPT-3, arXiv 2005.14165, appendix C
SHORTEST = 8  # words; a shorter prompt has to be all that a message says, a shorter answer says nothing


@dataclass(frozen=True, slots=True)
class Contamination:
    """Of `of` texts that a model is measured by, `hit` overlap with a training record (`whole`: are in one as a whole);
    `records` are the training records that do; `longest`: the words that two have in a row."""

    of: int
    hit: int
    whole: int
    records: int
    longest: str


def contamination(training: Iterable[Record], measured: Sequence[Record]) -> Contamination:
    """Holds every message of the training records against the prompts and longer answers of `measured`, as the gate
    `decontaminate` holds records against a benchmark (see `Overlaps`)."""
    prompts = _texts((r.prompt for r in measured), 1)
    answers = _texts((r.completion for r in measured), SHORTEST)
    overlaps = Overlaps([group for group in (prompts, answers) if group], NGRAM, SHORTEST)
    hit, whole, records, longest = set[int](), set[int](), 0, list[str]()
    for record in training:
        found = [shared for m in spoken(record, "record") if (shared := overlaps.find(m.content)) is not None]
        records += bool(found)
        hit.update(shared.text for shared in found)
        whole.update(shared.text for shared in found if shared.whole)
        longest = max([longest, *(list(shared.run) for shared in found)], key=len)
    return Contamination(len(prompts) + len(answers), len(hit), len(whole), records, " ".join(longest))


def warnings(called: str, folder: Path, measured: Sequence[Record]) -> Iterator[str]:
    """What is to be said of a model that kdaug trained, and of those that it was trained from; nothing of others."""
    for about in trainings(folder):
        origin, teller = about.get("data"), f"{called}: overlap of its training data with what it is measured by"
        if not origin:
            yield f"{teller} is not known: the records were handed in one by one"
            continue
        name = short_name(origin["source"])
        try:
            found = contamination(records_again(origin), measured)
        except ConfigError:
            yield f"{teller} is not known: {name} is no longer there"
            continue
        if found.hit:
            run = f'"{found.longest[:80]}"'
            yield (
                f"{called} was trained on {name}, of which {found.records} records overlap with {found.hit} of the "
                f"{found.of} prompts and answers that it is measured by ({found.whole} as a whole; {run}): its figures "
                "say less of what it can do"
            )


def _texts(parts: Iterable[Sequence[Any] | None], least: int) -> list[str]:
    """The texts of messages, system messages aside, of so many words at least; each once."""
    said = (m.content for messages in parts for m in messages or () if m.role in ("user", "assistant"))
    return list(dict.fromkeys(text for text in said if text.strip() and len(words(text)) >= least))
