"""Kills a run with SIGKILL as often as it is told, and looks whether anything is lost, doubled or left over.

    python benchmarks/soak.py --kills 100
    python benchmarks/soak.py --kills 5 --teacher vllm

openai   against a fake server, and compared to a run never killed; the server counts the calls that are sent again
vllm     with the engine in process, some kills while it starts; its processes must be gone after each

The figure on the last line is the number of kept records that are missing or doubled: it must be 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from harness import Bound, finish, options

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from killing import run_killed, run_killed_with_engine, run_whole
from servers.run import FakeOpenAI

from kdaug.dataset import Dataset
from kdaug.journal import Journal

IN_FLIGHT = 64
IN_ENGINE = 16  # requests in flight with vLLM: few enough that a kill in the middle has replies before and after it


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher", choices=("openai", "vllm"), default="openai")
    given = parser.parse_args()
    kills = min(given.kills, 5) if given.quick else given.kills
    with tempfile.TemporaryDirectory() as name:
        soak = with_vllm if given.teacher == "vllm" else with_openai
        return soak(given, Path(name), kills)


def write_prompts(folder: Path, number: int) -> list[str]:
    """The words of a command that answers so many prompts."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(number)), "utf-8")
    return ["run", "respond", "--seeds", str(path)]


def with_openai(given: argparse.Namespace, folder: Path, kills: int) -> int:
    number = 300 * kills
    with FakeOpenAI(latency_ms=30) as server:
        teacher = f"openai:m?base_url={server.url}&concurrency={IN_FLIGHT}"
        command = [*write_prompts(folder, number), "--teacher", teacher]
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


def with_vllm(given: argparse.Namespace, folder: Path, kills: int) -> int:
    """The cap on calls, never reached, makes the run write down each call before it is made, so that they count."""
    number, out = 80 * kills, folder / "killed"
    teacher = f"vllm:?max_model_len=1024&concurrency={IN_ENGINE}"
    command = [*write_prompts(folder, number), "--teacher", teacher, "--max-calls", str(10 * number)]
    command += ["--set", "respond.max_tokens=48", "--set", "respond.keep_cut=true"]
    started = time.perf_counter()
    killed = run_killed_with_engine(command, out, kills, Random(given.seed))
    wall = time.perf_counter() - started
    asked = sorted(r.prompt[-1].content for r in Dataset(out).records())
    wrong = len(set(asked) ^ {f"question {i}" for i in range(number)}) + len(asked) - len(set(asked))
    journal = Journal.read_only(out)
    made = sum(calls for _, calls, *_ in journal.spending())
    journal.close()
    print(f"{kills} kills in {wall:.0f} s over {number:,} records; replies on the disk at each: {killed.replies}")
    print(f"calls made again: {made - number}; the engine was gone {max(killed.seconds):.1f} s after a kill at most")
    bounds = [
        Bound("processes of an engine that lived on", killed.left, 0, most=True),
        Bound("calls made again", made - number, kills * IN_ENGINE, most=True),
        Bound("replies on the disk that changed", killed.changed, 0, most=True),
        Bound("kept records missing or doubled", wrong, 0, most=True),
    ]
    figures = {"kills": kills, "records": number, "wall_s": wall, "repeated": made - number, "wrong": wrong}
    found = {"replies": killed.replies, "gone_after_s": killed.seconds, "left": killed.left}
    return finish("soak_vllm", given, figures | found, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
