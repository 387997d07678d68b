"""One pass over a dataset in bounded memory: what is counted of every record, and a sample for what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isfinite
from random import Random

from kdaug.diversity import cut_off
from kdaug.errors import shorten
from kdaug.gates.heuristics import REFUSAL_WORDS, refusal
from kdaug.gates.novelty import compared
from kdaug.record import Record, text_of
from kdaug.words import count_words, words

TEXT = 8_000  # characters of a text that the sample holds
NAMES = 1_000  # different makers, teachers or scores that are counted one by one; what comes later is "other"


@dataclass(frozen=True, slots=True)
class Sampled:
    """A record of the sample. `instruction`: the task without its input, where they are known apart; long texts are
    cut after 8,000 characters."""

    id: str
    instruction: str
    prompt: str
    answer: str | None
    scores: Mapping[str, float]


@dataclass
class Copies:
    """Counts texts that came before, exactly up to `limit` different ones; beyond that among those whose hash falls
    into a half, a quarter, … of its range, which is an unbiased share in bounded memory."""

    limit: int = 500_000
    seen: dict[int, int] = field(default_factory=dict)  # hash: how often
    _bits: int = 0

    def see(self, text: str) -> None:
        body = " ".join(words(text) or text.split()).encode(errors="replace")
        key = int.from_bytes(blake2b(body, digest_size=8).digest(), "big")
        if self._outside(key):
            return
        self.seen[key] = self.seen.get(key, 0) + 1
        while len(self.seen) > self.limit:
            self._bits += 1
            self.seen = {k: n for k, n in self.seen.items() if not self._outside(k)}

    @property
    def share(self) -> float:
        return 1 - len(self.seen) / sum(self.seen.values()) if self.seen else 0.0

    def _outside(self, key: int) -> bool:
        return bool(key & ((1 << self._bits) - 1))


@dataclass
class Mean:
    number: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")

    def see(self, value: float) -> None:
        self.number += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)


@dataclass
class Survey:
    """What is known of a dataset after one pass. `lengths`: by part (`prompt`, `answer`, `rejected`) how many texts
    have how many words; `longer_chosen`: pairs whose chosen answer has more words than the rejected one."""

    records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    makers: Counter[str] = field(default_factory=Counter)
    teachers: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    scores: dict[str, Mean] = field(default_factory=dict)
    copies: Copies = field(default_factory=Copies)
    empty_prompts: int = 0
    empty_answers: int = 0
    refusals: int = 0
    cut_off: int = 0
    longer_chosen: int = 0
    sample: list[Sampled] = field(default_factory=list)

    @property
    def answers(self) -> int:
        return self.lengths.get("answer", Counter()).total()

    def see(self, record: Record) -> None:
        self.records += 1
        self.kinds[record.kind] += 1
        _count(self.makers, record.by)
        for teacher in record.teachers:
            _count(self.teachers, teacher)
        self.turns[sum(m.role == "user" for m in record.prompt)] += 1
        prompt = compared(record, "prompt")
        self.copies.see(prompt)
        self.empty_prompts += not prompt.strip()
        self._length("prompt", prompt)
        if record.completion is not None:
            self._answer(record)
        for name, value in record.scores.items():
            if isfinite(value) and (name in self.scores or len(self.scores) < NAMES):
                self.scores.setdefault(name, Mean()).see(value)

    def thin(self, number: int, seed: int) -> None:
        """Leaves `number` of the sample, drawn evenly, in their order."""
        kept = sorted(Random(seed).sample(range(len(self.sample)), number))
        self.sample = [self.sample[place] for place in kept]

    def _answer(self, record: Record) -> None:
        answer = text_of(record.completion)
        length = self._length("answer", answer)
        self.empty_answers += not answer.strip() and not any(m.tool_calls for m in record.completion or ())
        self.refusals += length < REFUSAL_WORDS and refusal(answer) is not None
        self.cut_off += cut_off(answer)
        if record.rejected is not None:
            self.longer_chosen += length > self._length("rejected", text_of(record.rejected))

    def _length(self, part: str, text: str) -> int:
        length = count_words(text)
        self.lengths.setdefault(part, Counter())[_rounded(length)] += 1
        return length


def survey(records: Iterable[Record], *, sample: int, seed: int) -> Survey:
    """Every record is counted; `sample` of them, drawn evenly, are held in their order."""
    found = Survey()
    places: list[tuple[int, Sampled]] = []
    rng = Random(seed)
    for place, record in enumerate(records):
        found.see(record)
        if place < sample:
            places.append((place, _sampled(record)))
        elif (slot := rng.randrange(place + 1)) < sample:  # Algorithm R
            places[slot] = (place, _sampled(record))
    found.sample = [one for _, one in sorted(places, key=lambda item: item[0])]
    return found


def _sampled(record: Record) -> Sampled:
    answer = None if record.completion is None else text_of(record.completion)[:TEXT]
    instruction, prompt = compared(record, "instruction")[:TEXT], compared(record, "prompt")[:TEXT]
    return Sampled(record.id, instruction, prompt, answer, dict(record.scores))


def _count(counter: Counter[str], name: str) -> None:
    name = shorten(name, 80)
    counter[name if name in counter or len(counter) < NAMES else "other"] += 1


def _rounded(length: int) -> int:
    """Two digits of a long text's length are enough, and keep the number of different ones small."""
    step: int = 10 ** max(0, len(str(length)) - 3)
    return round(length / step) * step


def quantile(counts: Mapping[int, int], share: float) -> int:
    """The smallest value that at least this share of the counted has; 0 of nothing."""
    total, below = sum(counts.values()), 0
    for value in sorted(counts):
        below += counts[value]
        if below >= share * total:
            return value
    return 0


def bins(counts: Mapping[int, int], width: int, last: int) -> list[int]:
    """How many are in [0, width), [width, 2 width), …; the one that begins at `last` holds all from there on."""
    found = [0] * (last // width + 1)
    for value, count in counts.items():
        found[min(value // width, len(found) - 1)] += count
    return found


def bin_width(counts: Sequence[Mapping[int, int]]) -> tuple[int, int]:
    """(width, beginning of the last bin): a round width so that 99 % of every set are in 40 bins at most, and in fewer
    for small sets (the Rice rule, twice the cube root of their number)."""
    most = min(40.0, max(8.0, 2 * max((sum(c.values()) for c in counts), default=0) ** (1 / 3)))
    reach = max((quantile(c, 0.99) for c in counts), default=0)
    width = next(w for w in _round_numbers() if reach / w <= most)
    return width, (reach // width + 1) * width


def _round_numbers() -> Iterator[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def score_bins(values: Sequence[float], least: float, most: float, number: int = 20) -> list[int]:
    """How many of the values are in each of `number` equal bins from least to most."""
    found = [0] * number
    for value in values:
        at = int((value - least) / (most - least) * number) if most > least else 0
        found[min(max(at, 0), number - 1)] += 1
    return found
