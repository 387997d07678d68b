"""The numbers of a report, as plain JSON: of every dataset by itself, and in bins and topics that all of them share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from kdaug import diversity, topics
from kdaug.errors import shorten
from kdaug.survey import Mean, Survey, bin_width, bins, quantile, score_bins

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Numbers: TypeAlias = dict[str, Any]  # plain JSON
Embed: TypeAlias = "Callable[[Sequence[str]], Array]"  # float32 [texts, dimensions], unit rows

COSINE = 0.9  # near-duplicate, as the dedup gate has it
ROUGE = 0.7  # and the rouge gate (Self-Instruct, arXiv 2212.10560, §2.2)
BLEU_TEXTS = 500  # of the sample
SHOWN = 160  # characters of a text that is quoted
PAIRS = 8  # closest pairs that are quoted
SCORES = 8  # different scores, the most frequent ones


def measure(surveys: Sequence[Survey]) -> list[Numbers]:
    """Of each dataset what takes no model: counts, lengths, words, scores."""
    tokens = [[diversity.tokens_of(s.prompt) for s in one.sample if s.prompt.strip()] for one in surveys]
    similar = [diversity.rouge_matrix(texts, texts) for texts in tokens]
    lengths, scores = _lengths(surveys), _scores(surveys)
    return [
        {
            "records": one.records,
            "kinds": dict(one.kinds),
            "by": _top(one.makers),
            "teachers": _top(one.teachers),
            "turns": {str(n): count for n, count in sorted(one.turns.items())},
            "sampled": len(one.sample),
            "lengths": lengths[number],
            "health": _health(one),
            "words": {
                "prompt": _words(tokens[number]),
                "answer": _words([diversity.tokens_of(s.answer) for s in one.sample if s.answer]),
            },
            "copies": one.copies.share,
            "near_copies_rouge": _share(similar[number], ROUGE),
            "verb_noun": _verb_noun(s.instruction for s in one.sample),
            "openings": _openings(tokens[number]),
            "scores": scores[number],
        }
        for number, one in enumerate(surveys)
    ]


def novelty(one: Survey, seeds: Sequence[str]) -> Numbers | None:
    """Of each instruction of the sample the highest ROUGE-L with a seed (Self-Instruct, arXiv 2212.10560, figure 4);
    those that are a seed's own text are counted apart. None where there is nothing to compare."""
    own = set(seeds)
    texts = [s.instruction for s in one.sample if s.instruction.strip()]
    new = [diversity.tokens_of(text) for text in texts if text not in own]
    references = [diversity.tokens_of(text) for text in seeds]
    if not texts or not references:
        return None
    best = diversity.rouge_matrix(new, references).max(axis=1).tolist()
    return {
        "seeds": len(seeds),
        "compared": len(new),
        "seeds_own": len(texts) - len(new),
        "mean": sum(best) / len(best) if best else None,
        "near_copies": sum(score > ROUGE for score in best) / len(best) if best else None,
        "bins": score_bins(best, 0.0, 1.0),
    }


def embed_all(surveys: Sequence[Survey], embed: Embed, seed: int) -> tuple[list[str], list[Numbers]]:
    """The topics that all datasets share, by name, and what the embeddings say of each dataset."""
    import numpy as np

    samples = [[s for s in one.sample if s.prompt.strip()] for one in surveys]
    texts = [s.prompt for sample in samples for s in sample]
    if not texts:
        return [], [{} for _ in surveys]
    vectors = embed(texts)
    cluster_of, places = topics.clusters(vectors, seed), topics.flat_map(vectors)
    named = topics.names([diversity.tokens_of(text) for text in texts], cluster_of.tolist())
    found, start = [], 0
    parts = []
    for sample in samples:
        part = slice(start, start + len(sample))
        start += len(sample)
        parts.append(vectors[part])
        found.append(
            {
                **_geometry(vectors[part], [s.prompt for s in sample]),
                "topics": np.bincount(cluster_of[part], minlength=len(named)).tolist(),
                "map": [
                    [round(float(x), 4), round(float(y), 4), int(topic), shorten(s.prompt, SHOWN)]
                    for (x, y), topic, s in zip(places[part], cluster_of[part], sample, strict=True)
                ],
            }
        )
    for here, there, numbers in zip(parts, reversed(parts), found, strict=True) if len(parts) == 2 else ():
        numbers["in_the_other"] = (
            float(((here @ there.T).max(axis=1) > COSINE).mean()) if len(here) and len(there) else None
        )
    return named, found


def _geometry(vectors: Array, texts: Sequence[str]) -> Numbers:
    import numpy as np

    if len(vectors) < 2:
        return {"vendi": topics.vendi_score(vectors), "near_copies_cosine": None, "nearest": [], "closest": []}
    cosines = vectors @ vectors.T
    nearest = diversity.nearest_others(cosines)
    upper = np.triu(cosines, 1)
    closest = np.argsort(-upper, axis=None, kind="stable")[:PAIRS]
    return {
        "vendi": topics.vendi_score(vectors),
        "near_copies_cosine": _share(cosines, COSINE),
        "nearest_median": float(np.median(nearest)),
        "nearest": score_bins(nearest.tolist(), 0.0, 1.0),
        "closest": [
            [round(float(upper[i, j]), 4), shorten(texts[i], SHOWN), shorten(texts[j], SHOWN)]
            for i, j in (divmod(int(at), len(texts)) for at in closest)
            if upper[i, j] > 0
        ],
    }


def _share(similarity: Array, threshold: float) -> float | None:
    return diversity.near_duplicates(similarity, threshold) if len(similarity) > 1 else None


def _lengths(surveys: Sequence[Survey]) -> list[Numbers]:
    """In bins that all datasets share: a list of counts that begin at 0, `width` words each; the last one is open."""
    found: list[Numbers] = [{} for _ in surveys]
    for part in ("prompt", "answer", "rejected"):
        have = [one.lengths[part] for one in surveys if one.lengths.get(part)]
        if not have:
            continue
        width, last = bin_width(have)
        for one, numbers in zip(surveys, found, strict=True):
            if counts := one.lengths.get(part):
                total = counts.total()
                numbers[part] = {
                    "texts": total,
                    "mean": sum(value * n for value, n in counts.items()) / total,
                    **{name: quantile(counts, q) for name, q in (("p5", 0.05), ("median", 0.5), ("p95", 0.95))},
                    "max": max(counts),
                    "width": width,
                    "bins": bins(counts, width, last),
                }
    return found


def _scores(surveys: Sequence[Survey]) -> list[Numbers]:
    """Histograms are of the sample, means and ranges of all records."""
    frequent = sum((Counter({name: m.number for name, m in one.scores.items()}) for one in surveys), Counter[str]())
    found: list[Numbers] = [{} for _ in surveys]
    for name, _ in frequent.most_common(SCORES):
        known = [one.scores[name] for one in surveys if name in one.scores]
        least, most = min(m.least for m in known), max(m.most for m in known)
        for one, numbers in zip(surveys, found, strict=True):
            if name in one.scores:
                values = [s.scores[name] for s in one.sample if name in s.scores]
                numbers[name] = _score(one.scores[name], values, least, most)
    return found


def _score(known: Mean, values: Sequence[float], least: float, most: float) -> Numbers:
    return {
        "records": known.number,
        "mean": known.total / known.number,
        "min": known.least,
        "max": known.most,
        "from": least,
        "to": most,
        "bins": score_bins(values, least, most),
    }


def _health(one: Survey) -> Numbers:
    def share(number: int, of: int) -> float | None:
        return number / of if of else None

    pairs = one.kinds["preference"]
    return {
        "answers": one.answers,
        "refusals": share(one.refusals, one.answers),
        "cut_off": share(one.cut_off, one.answers),
        "empty_answers": share(one.empty_answers, one.answers),
        "empty_prompts": share(one.empty_prompts, one.records),
        "chosen_longer": share(one.longer_chosen, pairs),
    }


def _words(texts: Sequence[Sequence[str]]) -> Numbers:
    return {
        "texts": len(texts),
        **{f"distinct_{n}": diversity.distinct(texts, n) for n in (1, 2, 3)},
        "self_bleu": diversity.self_bleu(texts[:: -(-len(texts) // BLEU_TEXTS)]) if texts else None,
    }


def _verb_noun(instructions: Iterable[str]) -> Numbers:
    pairs = Counter(map(diversity.verb_noun, instructions))
    none = pairs.pop(None, 0)
    found = [(pair, n) for pair, n in pairs.items() if pair is not None]
    found.sort(key=lambda item: (-item[1], item[0]))
    number = sum(n for _, n in found)
    return {
        "instructions": number + none,
        "with_pair": number,
        "different": len(found),
        "pairs": [[*pair, n] for pair, n in found[:400]],
    }


def _openings(texts: Iterable[Sequence[str]]) -> list[list[Any]]:
    counts = Counter(diversity.opening(tokens) for tokens in texts if tokens)
    return [[words, n] for words, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:12]]


def _top(counts: Counter[str], most: int = 50) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most])
