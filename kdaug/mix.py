"""Mixing: one dataset from several by weights, exactly so many records, drawn without replacement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any

import kdaug
from kdaug.dataset import Dataset, write_dataset
from kdaug.errors import ConfigError
from kdaug.read import stream
from kdaug.record import Record

MIXED_FROM = "mixed_from"  # in a record's meta: the dataset that it was drawn from


def mix(
    parts: Mapping[str, float], n: int, *, out: str | Path, seed: int = 0, split: str = "train", command: str = ""
) -> Dataset:
    """Draws exactly `n` records from datasets (files, runs, folders, Hub ids), in proportion to their weights, into the
    dataset folder `out`.

    A record comes at most once, however many parts have it; it counts for the first. Equal `seed`, equal data. A record
    keeps all that it has, and `meta["mixed_from"]` names its part. The parts are interleaved at random; within one, the
    order stays. What is held is two bytes a row, and the ids of all records while they are counted.

    Raises ConfigError where a part has fewer records than its share (it says for which `n` they are enough), where a
    row is no record, and where `out` is there already.
    """
    shares, folder = _shares(parts, n), Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty: choose another folder")
    sources, names = list(parts), _names(list(parts))
    firsts = _firsts(sources, split)
    sizes = [sum(first) for first in firsts]
    numbers = _numbers(shares, n)
    wanted = list(zip(firsts, numbers, strict=True))
    if any(number > size for number, size in zip(numbers, sizes, strict=True)):
        raise ConfigError(_too_few(names, shares, sizes, n))
    taken = [_drawn(first, number, Random(f"{seed}/{at}")) for at, (first, number) in enumerate(wanted)]

    def records() -> Iterator[Record]:
        drawn = zip(sources, taken, names, strict=True)
        parts = [_named(stream(one, split=split, only=rows), name) for one, rows, name in drawn]
        return _interleaved(parts, numbers, Random(f"{seed}/order"))

    recipe = {"mix": dict(zip(names, map(float, parts.values()), strict=True)), "n": n, "seed": seed, "split": split}
    mixed = [{"name": name, "records": size, "drawn": k} for name, size, k in zip(names, sizes, numbers, strict=True)]
    facts: dict[str, Any] = {"kdaug": kdaug.__version__, "command": command, "recipe": recipe, "mixed": mixed}
    write_dataset(folder, records, facts=facts)
    return Dataset(folder)


def _shares(parts: Mapping[str, float], n: int) -> list[Fraction]:
    """The weights as exact shares of one. Raises ConfigError for what is no weight, and no number of records."""
    if n < 1:
        raise ConfigError(f"n is {n}: it must be at least 1")
    if not parts:
        raise ConfigError("there is nothing to mix: give datasets with their weights, such as a=0.7 b=0.3")
    for source, weight in parts.items():
        if not (isfinite(weight) and weight > 0):
            raise ConfigError(f"the weight of {source} is {weight:g}: it must be more than 0")
    exact = [Fraction(repr(float(weight))) for weight in parts.values()]
    return [weight / sum(exact) for weight in exact]


def _names(sources: Sequence[str]) -> list[str]:
    """Without the folders that a file or run lies in, where two are not called the same."""
    short = [Path(one).name if Path(one).exists() else one for one in sources]
    times = Counter(short)
    return [name if times[name] == 1 else one for name, one in zip(short, sources, strict=True)]


def _firsts(sources: Sequence[str], split: str) -> list[bytearray]:
    """For each row of each dataset 1, or 0 where it is a copy of an earlier one."""
    seen: set[bytes] = set()
    found = []
    for source in sources:
        first = bytearray()
        for record in stream(source, split=split):
            id = bytes.fromhex(record.id)
            first.append(id not in seen)
            seen.add(id)
        found.append(first)
    return found


def _numbers(shares: Sequence[Fraction], n: int) -> list[int]:
    """`n` by shares: rounded down, and what is left to those that lost most by it (the earlier of equals)."""
    numbers = [int(share * n) for share in shares]
    lost = sorted(range(len(shares)), key=lambda at: numbers[at] - shares[at] * n)
    for at in lost[: n - sum(numbers)]:
        numbers[at] += 1
    return numbers


def _too_few(names: Sequence[str], shares: Sequence[Fraction], sizes: Sequence[int], n: int) -> str:
    def enough(n: int) -> bool:
        return all(number <= size for number, size in zip(_numbers(shares, n), sizes, strict=True))

    most = min(int(size / share) + 1 for size, share in zip(sizes, shares, strict=True))
    while most and not enough(most):
        most -= 1
    short = [
        f"{name} has {size:,} records that no part before it has, and its share is {number:,}"
        for name, size, number in zip(names, sizes, _numbers(shares, n), strict=True)
        if number > size
    ]
    return f"{'; '.join(short)}: with these weights n can be {most:,} at most"


def _drawn(first: bytearray, number: int, rng: Random) -> bytearray:
    """`number` of the rows that are 1, each as likely as any other: Knuth, The Art of Computer Programming, 3.4.2 S."""
    left, taken = sum(first), bytearray(len(first))
    for at, one in enumerate(first):
        if one:
            if rng.random() * left < number:
                taken[at], number = 1, number - 1
            left -= 1
    return taken


def _named(records: Iterator[Record], name: str) -> Iterator[Record]:
    return (replace(record, meta={**record.meta, MIXED_FROM: name}) for record in records)


def _interleaved(parts: Sequence[Iterator[Record]], numbers: Sequence[int], rng: Random) -> Iterator[Record]:
    """All of them; the next one is of a part in proportion to what it still has."""
    left, places = list(numbers), range(len(parts))
    for _ in range(sum(numbers)):
        [at] = rng.choices(places, left)
        left[at] -= 1
        yield next(parts[at])
