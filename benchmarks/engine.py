"""How much the engine itself costs: records a second live and on replay, memory, and 2,000 calls beside raw aiohttp.

live     a run of `respond` over a teacher that answers at once, journal and dataset included
replay   the same command again: everything is settled from the journal
memory   peak of the process at 10,000 and at 100,000 records
calls    2,000 chat completions at 200 ms, 128 in flight: the whole process, start-up included, against a bare
         aiohttp loop that appends each answer to a file
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import overload

from clients import KDAUG, RAW, Task, write_prompts
from harness import Bound, finish, measured, options

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from servers.run import FakeOpenAI

import kdaug as kd
from kdaug.progress import Log
from kdaug.running import execute

IN_FLIGHT = 128


class Prompts(Sequence[kd.Record]):
    """Seeds that are made when they are looked at, so that memory is the engine's own."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, at: int) -> kd.Record: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[kd.Record]: ...
    def __getitem__(self, at: int | slice) -> kd.Record | Sequence[kd.Record]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(self.number))]
        if not 0 <= at < self.number:
            raise IndexError(at)
        return kd.Record(prompt=kd.user(f"Explain in two sentences what the number {at} is good for."))

    def __iter__(self) -> Iterator[kd.Record]:
        return (self[i] for i in range(self.number))


def answer(request: kd.Request) -> str:
    return f"{request.messages[-1].content} It is a number like any other, and it has its uses. " * 2


def run_once(number: int, out: Path) -> dict[str, float]:
    """The seconds of one run's two parts: the jobs, and the dataset that is derived from them."""
    recipe = kd.Recipe(kd.Each(Prompts(number)), [kd.Stage(kd.Respond())])
    teacher = kd.Fake(answer, concurrency=IN_FLIGHT)
    outcome = execute(recipe, out, {"teacher": teacher}, log=Log(quiet=True))
    if outcome.error is not None or outcome.facts["kept"] != number:
        sys.exit(f"the run kept {outcome.facts['kept']} of {number} records: {outcome.error}")
    seconds: dict[str, float] = outcome.facts["seconds"]
    return seconds


def rates(number: int, folder: Path) -> dict[str, float]:
    live = run_once(number, folder / "rates")
    replay = run_once(number, folder / "rates")
    return {
        "records": number,
        "live_per_s": number / live["run"],
        "replay_per_s": number / replay["run"],
        "dataset_per_s": number / replay["dataset"],
    }


def memory(number: int, folder: Path) -> float:
    used = measured([sys.executable, __file__, "--one", str(number), "--out", str(folder / f"memory{number}")])
    return used["peak_mb"]


def calls(number: int, rounds: int, folder: Path) -> dict[str, float]:
    """Round-robin, so that a busy moment of the machine meets both alike."""
    prompts = write_prompts(folder / "prompts.jsonl", number)
    used: dict[str, list[dict[str, float]]] = {"kdaug": [], "aiohttp": []}
    with FakeOpenAI(latency_ms=200) as server:
        for turn in range(rounds):
            for name, client in (("aiohttp", RAW), ("kdaug", KDAUG)):
                task = Task(server.url, prompts, number, folder / f"{name}{turn}", IN_FLIGHT)
                used[name].append(measured(client.command(task), client.environment(task)))
    medians = {f"{name}_{key}": median(one[key] for one in ran) for name, ran in used.items() for key in ran[0]}
    return {"calls": number, "ideal_s": number / IN_FLIGHT * 0.2, **medians}


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--one", type=int, help="(one run of this many records, for the memory rows)")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.one:
        run_once(given.one, given.out)
        return 0
    small, large, number, rounds = (2_000, 10_000, 500, 1) if given.quick else (10_000, 100_000, 2_000, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speed = rates(small if given.quick else 20_000, folder)
        print(
            f"live {speed['live_per_s']:,.0f} records/s, replay {speed['replay_per_s']:,.0f} records/s, "
            f"dataset written at {speed['dataset_per_s']:,.0f} records/s"
        )
        peaks = {n: memory(n, folder) for n in (small, large)}
        print(", ".join(f"{n:,} records: {mb:.0f} MB" for n, mb in peaks.items()))
        called = calls(number, rounds, folder)
    ratio = called["kdaug_wall_s"] / called["aiohttp_wall_s"]
    print(
        f"{number} calls: kdaug {called['kdaug_wall_s']:.2f} s ({called['kdaug_cpu_s']:.2f} s CPU), "
        f"aiohttp {called['aiohttp_wall_s']:.2f} s ({called['aiohttp_cpu_s']:.2f} s CPU), "
        f"ideal {called['ideal_s']:.2f} s"
    )
    bounds = [
        Bound("live records/s", speed["live_per_s"], 1_500 if given.quick else 3_000),
        Bound("replay records/s", speed["replay_per_s"], 5_000 if given.quick else 20_000),
        Bound(f"MB more at {large:,} than at {small:,} records", peaks[large] - peaks[small], 60, most=True),
        Bound("wall time of the calls over raw aiohttp", ratio, 2.5 if given.quick else 1.35, most=True),
    ]
    figures = {**speed, "peak_mb": {str(n): mb for n, mb in peaks.items()}, **called, "wall_ratio": ratio}
    return finish("engine", given, figures, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
