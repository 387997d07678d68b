"""The minhash gate's method beside datasketch and rensa alone, all against the exact answer.

The exact answer: a text whose Jaccard similarity of word 3-grams with an earlier kept one is above 0.7 goes; found
through an inverted index of shingles, without hashing. Recall is over the exact drops; a wrong drop is one that the
exact answer keeps. CPU time of one thread, tokenizing included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from fractions import Fraction

from datasketch import MinHash as Sketch
from datasketch import MinHashLSH
from harness import Bound, finish, options, table
from rensa import RMinHashDeduplicator
from sentences import Writer

import kdaug as kd
from kdaug.words import words

SHINGLE, THRESHOLD = 3, Fraction(7, 10)


def shingles(text: str) -> set[str]:
    found = words(text)
    return {" ".join(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1))}


def exact(texts: list[str]) -> list[bool]:
    """Whether each text is kept."""
    sets, holders, kept = list[set[str]](), dict[str, list[int]](), []
    for text in texts:
        mine, shared = shingles(text), dict[int, int]()
        for shingle in mine:
            for place in holders.get(shingle, ()):
                shared[place] = shared.get(place, 0) + 1
        kept.append(not any(n > THRESHOLD * (len(mine) + len(sets[p]) - n) for p, n in shared.items()))
        if kept[-1]:
            for shingle in mine:
                holders.setdefault(shingle, []).append(len(sets))
            sets.append(mine)
    return kept


def by_kdaug(texts: list[str]) -> list[bool]:
    return asyncio.run(_gate([kd.Record(prompt=kd.user(text)) for text in texts]))


async def _gate(records: list[kd.Record]) -> list[bool]:
    gate, kept = kd.MinHash(float(THRESHOLD), SHINGLE).start([]), []
    for record in records:
        prepared = await gate.prepare(record, None)  # type: ignore[arg-type]  # this gate asks no model
        kept.append(gate.decide(prepared) is None)
        if kept[-1]:
            gate.remember(prepared)
    return kept


def by_datasketch(texts: list[str]) -> list[bool]:
    lsh, kept = MinHashLSH(threshold=float(THRESHOLD), num_perm=128), []
    for place, text in enumerate(texts):
        sketch = Sketch(num_perm=128)
        sketch.update_batch([s.encode() for s in shingles(text)])
        kept.append(not lsh.query(sketch))
        if kept[-1]:
            lsh.insert(str(place), sketch)
    return kept


def by_rensa(texts: list[str]) -> list[bool]:
    dedup = RMinHashDeduplicator(threshold=float(THRESHOLD), num_perm=128, use_lsh=True)
    kept: list[bool] = dedup.add_pairs((str(i), list(shingles(text))) for i, text in enumerate(texts))
    return kept


def main() -> int:
    given = options(__doc__).parse_args()
    number = 5_000 if given.quick else 20_000
    texts = list(Writer().texts(number))
    truth = exact(texts)
    methods: dict[str, Callable[[list[str]], list[bool]]] = {
        "kdaug minhash": by_kdaug,
        "rensa": by_rensa,
        "datasketch": by_datasketch,
    }
    figures: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        began = time.process_time()
        kept = method(texts)
        rate = number / (time.process_time() - began)
        found = sum(not k and not t for k, t in zip(kept, truth, strict=True))
        wrong = sum(not k and t for k, t in zip(kept, truth, strict=True))
        figures[name] = {"rows_per_cpu_s": rate, "recall": found / truth.count(False), "wrong_drops": wrong}
    head = ["", "rows per CPU-second", "recall", "wrong drops"]
    rows = [
        [name, f"{f['rows_per_cpu_s']:,.0f}", f"{f['recall']:.4f}", f"{f['wrong_drops']:,.0f}"]
        for name, f in figures.items()
    ]
    print(f"{number:,} rows, {truth.count(False):,} of them to be dropped\n{table(head, rows)}")
    ours = figures["kdaug minhash"]
    bounds = [
        Bound("wrong drops", ours["wrong_drops"], 0, most=True),
        Bound("recall", ours["recall"], 0.98),
    ]
    return finish("minhash", given, {"rows": number, **figures}, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
