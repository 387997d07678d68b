"""The minhash gate's method beside datasketch, datatrove and rensa alone, all against the exact answer.

The exact answer: a text whose Jaccard similarity of word 3-grams with an earlier kept one is above 0.7 goes; found
through an inverted index of shingles, without hashing. Recall is over the exact drops; a wrong drop is one that the
exact answer keeps. CPU time of one thread, tokenizing included; each in a process of its own, whose peak memory has the
texts in it. datatrove (left out where it is not installed) keeps one text of each connected component, in four passes
over files, with 14 buckets of 8 hashes, its defaults.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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


def by_datatrove(texts: list[str]) -> list[bool]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=SHINGLE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        lines = [json.dumps({"text": text, "id": str(place)}) for place, text in enumerate(texts)]
        (folder / "in" / "all.jsonl").write_text("\n".join(lines), encoding="utf-8")
        signed, buckets, gone, out = (str(folder / part) for part in ("signed", "buckets", "gone", "out"))
        reader = JsonlReader(str(folder / "in"))
        passes: list[tuple[list[Any], int]] = [
            ([reader, MinhashDedupSignature(signed, config=config)], 1),
            ([MinhashDedupBuckets(signed, buckets, config=config)], config.num_buckets),
            ([MinhashDedupCluster(buckets, gone, config=config)], 1),
            ([reader, MinhashDedupFilter(gone), JsonlWriter(out, compression=None)], 1),
        ]
        for number, (pipeline, tasks) in enumerate(passes):
            LocalPipelineExecutor(pipeline, tasks, workers=1, logging_dir=str(folder / f"log{number}")).run()
        written = (json.loads(line) for file in Path(out).iterdir() for line in file.open(encoding="utf-8"))
        left = {int(row["id"]) for row in written}
    return [place in left for place in range(len(texts))]


def apart(method: Callable[[list[str]], list[bool]], texts: list[str]) -> tuple[list[bool], float, float]:
    """In a process of its own: what is kept, CPU seconds, and its peak memory in MB."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_measured, (method, texts))


def _measured(method: Callable[[list[str]], list[bool]], texts: list[str]) -> tuple[list[bool], float, float]:
    began = time.process_time() + _of_children()
    kept = method(texts)
    seconds = time.process_time() + _of_children() - began
    return kept, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    if find_spec("datatrove"):
        methods["datatrove"] = by_datatrove
    figures: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        kept, seconds, peak = apart(method, texts)
        rate = number / seconds
        found = sum(not k and not t for k, t in zip(kept, truth, strict=True))
        wrong = sum(not k and t for k, t in zip(kept, truth, strict=True))
        recall = found / truth.count(False)
        figures[name] = {"rows_per_cpu_s": rate, "recall": recall, "wrong_drops": wrong, "peak_mb": peak}
    head = ["", "rows per CPU-second", "recall", "wrong drops", "peak MB"]
    rows = [
        [name, f"{f['rows_per_cpu_s']:,.0f}", f"{f['recall']:.4f}", f"{f['wrong_drops']:,.0f}", f"{f['peak_mb']:,.0f}"]
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
