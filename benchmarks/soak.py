"""Kills a run with SIGKILL as often as it is told, and compares what it ends with to a run never killed.

    python benchmarks/soak.py --kills 100

The figure on the last line is the number of kept records that are missing or doubled: it must be 0. Also counted: the
calls that were sent again, against those in flight at the kills.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from harness import Bound, finish, options

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from killing import run_killed, run_whole
from servers.run import FakeOpenAI

from kdaug.dataset import Dataset

IN_FLIGHT = 64


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kills = 5 if given.quick else given.kills
    number = 300 * kills
    with tempfile.TemporaryDirectory() as name, FakeOpenAI(latency_ms=30) as server:
        folder = Path(name)
        prompts = folder / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(number)), "utf-8")
        teacher = f"openai:m?base_url={server.url}&concurrency={IN_FLIGHT}"
        command = ["run", "respond", "--seeds", str(prompts), "--teacher", teacher]
        whole = run_whole(command, folder / "whole")
        server.configure(latency_ms=30)
        started = time.perf_counter()
        killed = run_killed(command, folder / "killed", server, kills, Random(given.seed))
        wall = time.perf_counter() - started
        ids = [[r.id for r in Dataset(folder / run).records()] for run in ("whole", "killed")]
    wrong = abs(len(ids[0]) - len(ids[1])) + sum(a != b for a, b in zip(*ids, strict=False))
    print(f"{len(killed.lost)} kills in {wall:.0f} s over {number:,} records")
    print(
        f"calls sent again: {killed.repeated}; without a durable reply at a kill: {max(killed.lost, default=0)} at most"
    )
    bounds = [
        Bound("data files that differ", float(whole != killed.data), 0, most=True),
        Bound("calls without a reply at a kill", max(killed.lost, default=0), IN_FLIGHT, most=True),
        Bound("calls sent again", killed.repeated, sum(killed.lost), most=True),
        Bound("kept records missing or doubled", wrong, 0, most=True),
    ]
    figures = {"kills": len(killed.lost), "records": number, "wall_s": wall, "repeated": killed.repeated}
    return finish("soak", given, figures | {"lost": killed.lost, "wrong": wrong}, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
