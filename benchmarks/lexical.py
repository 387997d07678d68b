"""Self-Instruct's ROUGE-L filter: kdaug's search beside rouge_score and rapidfuzz, with decisions compared.

A stream of sentences and instructions with planted near-copies (benchmarks/sentences.py): what is above 0.7 with a kept
text goes. The sentences are those of the docstrings that are installed here, and beyond these of our own making.
CPU time of one thread, tokenizing included. rouge_score and rapidfuzz compare with every kept text, so they are timed
on the start of the stream; rouge_score's time at 10,000 follows from its time a pair and the pairs of rapidfuzz.
"""

from __future__ import annotations

import math
import resource
import time
from fractions import Fraction

from harness import Bound, finish, options, table
from rapidfuzz.distance import LCSseq
from rouge_score.rouge_scorer import RougeScorer
from sentences import Writer, docstrings

from kdaug.gates.compiled import CompiledIndex
from kdaug.gates.lexical import Index, PlainIndex, Rule, plain
from kdaug.words import words

RULE = Rule(Fraction(7, 10))


def filtered(texts: list[str], compiled: bool) -> tuple[float, list[bool]]:
    """CPU seconds, and for each text whether it is kept."""
    began = time.process_time()
    index: Index = CompiledIndex(RULE) if compiled else PlainIndex(RULE)
    kept = []
    for text in texts:
        form = plain(text, words)
        kept.append(index.earliest(form) is None)
        if kept[-1]:
            index.add(form)
    return time.process_time() - began, kept


def compared(texts: list[str]) -> tuple[float, list[bool], int]:
    """By rapidfuzz, with every kept text: CPU seconds, what is kept, and the pairs."""
    began, known, pool, kept, pairs = time.process_time(), dict[str, int](), list[list[int]](), [], 0
    for text in texts:
        tokens, above = [known.setdefault(word, len(known)) for word in words(text)], False
        for other in pool:
            pairs += 1
            least = RULE.least(len(tokens) + len(other))
            if LCSseq.similarity(tokens, other, score_cutoff=least) >= least:
                above = True
                break
        kept.append(not above)
        if not above:
            pool.append(tokens)
    return time.process_time() - began, kept, pairs


def rouge_scored(texts: list[str]) -> tuple[float, list[bool], int]:
    scorer, pool, kept, pairs = RougeScorer(["rougeL"]), list[str](), [], 0
    began = time.process_time()
    for text in texts:
        above = False
        for other in pool:
            pairs += 1
            if scorer.score(other, text)["rougeL"].fmeasure > 0.7000000001:  # its floats at exact ties aside
                above = True
                break
        kept.append(not above)
        if not above:
            pool.append(text)
    return time.process_time() - began, kept, pairs


def main() -> int:
    given = options(__doc__).parse_args()
    sizes = [2_000, 10_000, 20_000] if given.quick else [10_000, 50_000, 200_000, 1_000_000]
    few, many = (150, 2_000) if given.quick else (300, 10_000)
    texts = list(Writer().texts(sizes[-1], docstrings(20_000 if given.quick else 400_000)))
    slow, by_rouge, pairs = rouge_scored(texts[:few])
    rapid, by_rapidfuzz, needed = compared(texts[:many])
    rouge_s = slow / pairs * needed
    plain, by_plain = filtered(texts[:many], compiled=False)
    rows, seconds = [], {}
    for size in sizes:
        seconds[size], kept = filtered(texts[:size], compiled=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append([f"{size:,}", f"{size / seconds[size]:,.0f}", f"{sum(kept):,}", f"{peak:,.0f}"])
    print(table(["rows", "rows per CPU-second", "kept", "peak MB so far"], rows))
    wrong = sum(a != b for a, b in zip(kept[:many], by_rapidfuzz, strict=True))
    wrong += sum(a != b for a, b in zip(kept[:few], by_rouge, strict=True))
    wrong += sum(a != b for a, b in zip(kept[:many], by_plain, strict=True))
    exponent = math.log(seconds[sizes[-1]] / seconds[sizes[0]]) / math.log(sizes[-1] / sizes[0])
    at_many = seconds[many]
    print(
        f"{many:,} rows: kdaug {at_many:.2f} s, without Numba {plain:.2f} s, rapidfuzz, all pairs, {rapid:.1f} s, "
        f"rouge_score {rouge_s:,.0f} s (from {pairs:,} pairs)"
    )
    half = sizes[1]
    bounds = [
        Bound("decisions unlike rouge_score's and rapidfuzz's", wrong, 0, most=True),
        Bound("growth exponent", exponent, 1.5, most=True),
        Bound(f"times as fast as rouge_score at {many:,}", rouge_s / at_many, 200 if given.quick else 2_000),
        Bound(f"rows per CPU-second at {half:,}", half / seconds[half], 20_000 if given.quick else 60_000),
    ]
    figures = {
        "rows_per_cpu_s": {str(n): n / s for n, s in seconds.items()},
        "peak_mb": peak,
        "exponent": exponent,
        "at": many,
        "cpu_s": {"kdaug": at_many, "plain": plain, "rapidfuzz": rapid, "rouge_score_extrapolated": rouge_s},
        "wrong": wrong,
    }
    return finish("lexical", given, figures, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
