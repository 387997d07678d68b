"""The main job, from nothing: seed tasks become a dataset, the dataset makes a cut-down model a student of its teacher.

    python examples/demo.py      (or: make demo)

Everything runs on this machine with the embedded teacher: no key, no GPU, no Hub. Every number that is printed is
measured in this run. Run it again, or kill it and run it again: what is done is not done twice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kdaug as kd
from kdaug import recipes
from kdaug.models import find_model
from kdaug.prompts import shipped
from kdaug.recipe_file import load
from kdaug.running import execute

LAYERS = 20  # of the teacher's 30


@contextmanager
def step(title: str, seconds: dict[str, float]) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    started = time.perf_counter()
    yield
    seconds[title] = time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the dataset goes (runs/demo)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the students go (models/demo)")
    given = parser.parse_args()
    run, cut, student = given.runs / "demo", given.models / "demo-untrained", given.models / "demo"
    seconds: dict[str, float] = {}
    print(f"teacher: {find_model().says}")

    with step("generate", seconds):
        seeds = kd.read(shipped() / "seeds" / "seeds.jsonl")
        recipe = recipes.build(load("demo"), seeds, seeds_from="seeds.jsonl")
        outcome = execute(recipe, run, {"teacher": kd.Local()}, command="make demo")
        if outcome.exit_code != 0:
            print(f"the run ended early: {outcome.error or outcome.facts['ended_by']}", file=sys.stderr)
            return outcome.exit_code
    data = outcome.dataset
    train, test = list(data.records(split="train")), list(data.records(split="test"))
    print(f"{len(train)} records to train on, {len(test)} held out (they descend from other seeds)")

    with step(f"cut the student to {LAYERS} layers", seconds):
        kd.prune("smollm2", LAYERS, cut)
    with step("distil from the log-probabilities that the run has kept", seconds):
        kd.Distill(epochs=1, lr=5e-4, length=256, accumulate=1).fit(train, student=cut, run=run, out=student)
    with step("measure on the held-out records", seconds):
        before, after = (kd.evaluate(m, test, teacher="smollm2", length=512) for m in (cut, student))

    print(f"\n{'':22}{'untrained':>12}{'student':>12}")
    print(f"{'held-out NLL / token':22}{before.nll:12.3f}{after.nll:12.3f}")
    print(f"{'KL(teacher‖student)':22}{before.kl:12.3f}{after.kl:12.3f}")
    print(f"{'top-1 agreement':22}{before.top1:12.1%}{after.top1:12.1%}")
    print(f"\ndataset  {data.path}\ncard     {data.path / 'README.md'}\nstudent  {student}")
    print("seconds  " + ", ".join(f"{title} {spent:.0f}" for title, spent in seconds.items()))
    print(f"a record's story: kdaug show {run} {train[0].id}")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit("interrupted: make demo again goes on from here") from None
