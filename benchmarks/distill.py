"""Does distillation bring a student closer to its teacher than fine-tuning on the teacher's answers? SmolLM2-135M and
itself with fewer layers, on the same records in the same order.

The embedded teacher answers questions about 70 things (`kdaug run`, with its log-probabilities kept). Every seed
holds another fifth of the things out, and shuffles the rest; each method trains on that, and is judged by
KL(teacher‖student) on the answers about things that it has never seen. Differences are paired by seed. The methods that
the bounds are about (SFT, forward KL, stored) hold each fifth out once; the others do so with three of them.

sft           cross-entropy of the answers
forward_kl …  against the teacher's whole distribution (its states are computed once a seed, and kept)
stored        forward KL against the run's 20 likeliest tokens and one bucket for the rest: no teacher in memory
on_policy     forward KL, half of the answers written anew by the student at every step (GKD)

All that is made lies in --work, so that a run that was stopped goes on. Two processes of one thread each train at a
time.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from harness import Bound, finish, options, table

import kdaug as kd
from kdaug.record import Record, user

THINGS = (
    *("tea", "bread", "rain", "chess", "coffee", "salt", "sleep", "glass", "music", "money", "paper", "silk", "honey"),
    *("snow", "ice", "wood", "iron", "gold", "clay", "wool", "rice", "milk", "cheese", "soap", "wine", "sugar"),
    *("pepper", "garlic", "ginger", "corn", "cotton", "leather", "rubber", "steel", "copper", "coal", "wind"),
    *("water", "fire", "sand", "fog", "thunder", "sunlight", "gravity", "memory", "laughter", "friendship"),
    *("patience", "courage", "honesty", "curiosity", "silence", "hunger", "pain", "luck", "tennis", "football"),
    *("swimming", "dancing", "painting", "poetry", "theatre", "cooking", "gardening", "fishing", "travel", "law"),
    *("history", "algebra", "chemistry"),
)
QUESTIONS = (
    "In one or two sentences, explain what {} is good for.",
    "What should a child know about {}? Answer briefly.",
    "Give two short facts about {}.",
    "Say in one sentence why {} matters.",
)
TOP_K = 20
TEACHER = "smollm2"
# How each method differs from forward KL by the teacher itself.
METHODS: dict[str, dict[str, Any]] = {
    "forward_kl": {},
    "reverse_kl": {"divergence": "reverse_kl"},
    "jsd": {"divergence": "jsd"},
    "skew_kl": {"divergence": "skew_kl"},
    "stored": {},
    "on_policy": {"on_policy": 0.5, "max_new_tokens": 48},
}
BOUND = ("sft", "forward_kl", "stored")
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's t by degrees of freedom, two-sided


@dataclass(frozen=True)
class Size:
    """`layers` of the teacher's 30 that the student keeps; how many `things` are asked about, in `folds` parts; how
    many `seeds` there are, and `bound_seeds` of the methods that the bounds are about. `length` of a row: of 256 tokens
    there are twice as many steps as of 512, without which a student of few layers is still a beginner."""

    layers: int
    things: int
    folds: int
    lr: float
    length: int
    seeds: int
    bound_seeds: int
    methods: tuple[str, ...]

    def seeds_of(self, method: str) -> range:
        return range(self.bound_seeds if method in BOUND else self.seeds)


FULL = Size(
    layers=20, things=len(THINGS), folds=5, lr=5e-4, length=256, seeds=3, bound_seeds=5, methods=("sft", *METHODS)
)
QUICK = Size(layers=26, things=10, folds=2, lr=3e-4, length=512, seeds=1, bound_seeds=1, methods=BOUND)
HOW: dict[str, Any] = {"epochs": 1, "accumulate": 1, "floor": 0.05}


def answered(work: Path, size: Size) -> list[Record]:
    """The teacher's answers, those that it ended itself."""
    asked = [Record(prompt=user(q.format(t)), meta={"thing": t}) for t in THINGS[: size.things] for q in QUESTIONS]
    recipe = kd.Recipe(kd.Each(asked), [kd.Stage(kd.Respond(logprobs=TOP_K, max_tokens=80))])
    return list(kd.run(recipe, work / "run", teacher=kd.Local(), quiet=True))


def split(records: Sequence[Record], size: Size, seed: int) -> tuple[list[Record], list[Record]]:
    """(train, test), about other things."""
    held_out = THINGS[seed : size.things : size.folds]
    train = [r for r in records if r.meta["thing"] not in held_out]
    return train, [r for r in records if r.meta["thing"] in held_out]


def train(work: Path, size: Size, method: str, seed: int) -> dict[str, float]:
    """Trains and judges one student; what it is judged by."""
    learnt, judged = split(list(kd.Dataset(work / "run")), size, seed)
    student, out = work / "student", work / f"{method}-{seed}"
    how = {**HOW, "lr": size.lr, "length": size.length, "seed": seed}
    if method == "untrained":
        out = student
    elif method == "sft":
        kd.SFT(**how).fit(learnt, student=student, out=out)
    elif method == "stored":
        kd.Distill(**how).fit(learnt, student=student, run=work / "run", out=out)
    else:
        told = kd.Distill(**how, **METHODS[method])
        cache = None if told.on_policy else work / "cache"
        told.fit(learnt, student=student, teacher=TEACHER, cache=cache, out=out)
    found = kd.evaluate(out, judged, teacher=TEACHER, length=size.length)
    seconds = json.loads((out / "training.json").read_text())["results"]["seconds"] if out != student else 0.0
    figures = {"nll": found.nll, "kl": found.kl, "top1": found.top1, "tokens": found.tokens, "train_s": seconds}
    if out != student:
        shutil.rmtree(out)
    return {name: float(value or 0.0) for name, value in figures.items()}


def jobs(size: Size) -> list[tuple[str, int]]:
    """What keeps the teacher's states comes first for each seed: the others find them there."""
    first = [("forward_kl", seed) for seed in size.seeds_of("forward_kl")]
    methods = ("untrained", *(m for m in size.methods if m != "forward_kl"))
    return first + [(method, seed) for method in methods for seed in size.seeds_of(method)]


async def trained(work: Path, size: Size, given: argparse.Namespace) -> dict[tuple[str, int], dict[str, float]]:
    """All of them, `--workers` at a time, each in a process of its own; what is there already is not done again."""
    waiting, found = iter(jobs(size)), dict[tuple[str, int], dict[str, float]]()

    async def work_off() -> None:
        for method, seed in waiting:
            file = work / f"{method}-{seed}.json"
            if not file.is_file():
                command = [sys.executable, __file__, "--one", method, str(seed), "--work", str(work)]
                process = await asyncio.create_subprocess_exec(*command, *(["--quick"] if given.quick else []))
                if await process.wait() != 0:
                    sys.exit(f"{method}, seed {seed}, failed")
            found[method, seed] = json.loads(file.read_text())
            print(f"{method:>12} {seed}  KL {found[method, seed]['kl']:.3f}", flush=True)

    await asyncio.gather(*(work_off() for _ in range(given.workers)))
    return found


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and half its 95 % interval."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        n = len(values)
        return cls(fmean(values), T_95[n - 1] * stdev(values) / sqrt(n) if n > 1 else 0.0)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def summary(found: dict[tuple[str, int], dict[str, float]], size: Size) -> dict[str, dict[str, Mean]]:
    """By method: each figure, and `gain`: by how many per cent its KL is lower than that of SFT with the same seed."""
    rows: dict[str, dict[str, Mean]] = {}
    for method in ("untrained", *size.methods):
        runs = [found[method, seed] for seed in size.seeds_of(method)]
        rows[method] = {name: Mean.of([run[name] for run in runs]) for name in ("nll", "kl", "top1", "train_s")}
        sft = [found["sft", seed]["kl"] for seed in size.seeds_of(method)]
        rows[method]["gain"] = Mean.of([100 * (1 - run["kl"] / s) for run, s in zip(runs, sft, strict=True)])
    return rows


def shown(rows: dict[str, dict[str, Mean]]) -> str:
    head = ("", "held-out NLL", "KL(T‖S)", "top-1 %", "KL below SFT's, %", "seconds")
    lines = []
    for method, row in rows.items():
        top1 = Mean(100 * row["top1"].mean, 100 * row["top1"].half)
        gain = "" if method in ("untrained", "sft") else f"{row['gain'].mean:.1f} ± {row['gain'].half:.1f}"
        seconds = f"{row['train_s'].mean:.0f}" if row["train_s"].mean else ""
        lines.append((method, str(row["nll"]), str(row["kl"]), f"{top1.mean:.1f} ± {top1.half:.1f}", gain, seconds))
    return table(head, lines)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--work", type=Path, help="a folder for all that is made (default: one that is then deleted)")
    parser.add_argument("--workers", type=int, default=2, help="processes that train at a time (2)")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    if given.one:
        method, seed = given.one
        one = train(given.work, size, method, int(seed))
        (given.work / f"{method}-{seed}.json").write_text(json.dumps(one), "utf-8")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        records = answered(work, size)
        if not (work / "student").exists():
            kd.prune(TEACHER, size.layers, work / "student")
        found = asyncio.run(trained(work, size, given))
    rows = summary(found, size)
    print(shown(rows))
    learnt, judged = split(records, size, 0)
    print(f"seed 0: {len(learnt)} records to train on, {len(judged)} held out about other things")
    forward, stored = rows["forward_kl"]["gain"], rows["stored"]["gain"]
    figures: dict[str, Any] = {
        "size": asdict(size),
        "records": len(records),
        "methods": {m: {n: asdict(v) for n, v in row.items()} for m, row in rows.items()},
        "runs": [{"method": m, "seed": s, **told} for (m, s), told in sorted(found.items())],
    }
    bounds = [
        Bound("the stored top 20's share of forward KL's gain, %", 100 * stored.mean / forward.mean, 70),
        Bound("the lower end of forward KL's gain over SFT, %", forward.mean - forward.half, 0),
        Bound("forward KL's KL(T‖S) below SFT's, %", forward.mean, 5 if given.quick else 10),
    ]
    return finish("distill", given, figures, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
