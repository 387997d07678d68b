"""Kills runs with SIGKILL as often as it is told, and looks whether anything is lost, doubled or left over.

    python benchmarks/soak.py --kills 100                    all three, the last one with a twentieth of the kills
    python benchmarks/soak.py --kills 100 --teacher batch    one of them

openai   against a fake server that fails 7 % of the calls and refuses 1 % of the prompts for good
batch    against a fake provider that is slow to answer and lets every fifth batch expire
vllm     with the engine in process, some kills while it starts; its processes must be gone after each

The first two are compared to a run that was never killed, and the server counts what was answered once more. The last
figure of each is the number of kept records that are missing or doubled: it must be 0.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from harness import Bound, finish, options

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from killing import run_killed, run_killed_amid_batches, run_killed_with_engine, run_whole
from servers.run import FakeBatches, FakeOpenAI

from kdaug.dataset import Dataset
from kdaug.journal import Journal

IN_FLIGHT = 64
FAULTY = {"latency_ms": 30, "faults": {"429": 0.02, "500": 0.02, "reset": 0.02, "trunc": 0.01}, "retry_after": 0.05}
BATCH = 20  # requests
SLOW = dict.fromkeys(("upload_after", "create_before", "create_after", "content"), 0.1)  # seconds; see fake_batches.py
EXPIRING = ["completed", "completed", "completed", "completed", "expired"]
IN_ENGINE = 16  # requests in flight with vLLM: few enough that a kill in the middle has replies before and after it


def main() -> int:
    soaks = {"openai": with_openai, "batch": with_batches, "vllm": with_vllm}
    parser = options(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher", choices=soaks, action="append", help="by default all of them")
    given = parser.parse_args()
    failed = 0
    for teacher in given.teacher or soaks:
        kills = min(given.kills, 5) if given.quick else given.kills
        if teacher == "vllm" and not given.teacher:
            kills = max(1, kills // 20)
        with tempfile.TemporaryDirectory() as name:
            failed |= soaks[teacher](given, Path(name), kills)
    return failed


def write_prompts(folder: Path, number: int) -> list[str]:
    """The words of a command that answers so many prompts."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(number)), "utf-8")
    return ["run", "respond", "--seeds", str(path)]


def differing(folder: Path) -> int:
    """How many kept records the killed run lacks, has twice or has besides."""
    whole, killed = (Counter(r.id for r in Dataset(folder / run).records()) for run in ("whole", "killed"))
    return sum(((whole - killed) + (killed - whole)).values())


def with_openai(given: argparse.Namespace, folder: Path, kills: int) -> int:
    number = 120 * kills
    with FakeOpenAI() as server:
        teacher = f"openai:m?base_url={server.url}&concurrency={IN_FLIGHT}"
        command = [*write_prompts(folder, number), "--teacher", teacher]
        refuse_some(folder / "prompts.jsonl")
        server.configure(**FAULTY)
        whole = run_whole(command, folder / "whole")
        server.configure(**FAULTY)
        started = time.perf_counter()
        killed = run_killed(command, folder / "killed", server, kills, Random(given.seed))
        wall = time.perf_counter() - started
        outcomes = server.stats()["outcomes"]
    wrong, most = differing(folder), max(killed.lost, default=0)
    print(
        f"openai: {len(killed.lost)} kills in {wall:.0f} s over {number:,} prompts; the server's outcomes: {outcomes}"
    )
    print(f"answered once more: {killed.repeated}; without a durable reply at a kill: {most} at most")
    bounds = [
        Bound("kills", len(killed.lost), kills),
        Bound("data files that differ", float(whole != killed.data), 0, most=True),
        Bound("prompts without a reply at a kill", most, IN_FLIGHT, most=True),
        Bound("prompts answered once more", killed.repeated, sum(killed.lost), most=True),
        Bound("kept records missing or doubled", wrong, 0, most=True),
    ]
    figures = {"kills": len(killed.lost), "prompts": number, "wall_s": wall, "repeated": killed.repeated}
    return finish("soak_openai", given, figures | {"lost": killed.lost, "outcomes": outcomes, "wrong": wrong}, bounds)


def refuse_some(prompts: Path) -> None:
    """One prompt in a hundred is refused for good by the server's content filter."""
    lines = prompts.read_text("utf-8").splitlines(keepends=True)
    marked = [line.replace('"}', ' @@FAIL:policy@@"}') if n % 100 == 7 else line for n, line in enumerate(lines)]
    prompts.write_text("".join(marked), "utf-8")


def with_batches(given: argparse.Namespace, folder: Path, kills: int) -> int:
    """A batch at a time, so that a kill meets all of its steps; what expired is sent again, and so executed once."""
    number = 24 * kills
    os.environ["OPENAI_API_KEY"] = "sk-of-the-fake-provider"
    with FakeBatches() as server:
        teacher = f"batch:m?base_url={server.url}&concurrency={BATCH}&poll=0.02&settle=0.5&tries=20"
        command = [*write_prompts(folder, number), "--teacher", teacher]
        started = time.perf_counter()
        server.configure(pause=SLOW, outcomes=EXPIRING * number)
        done, killed = run_killed_amid_batches(command, folder / "killed", server, kills, Random(given.seed))
        wall, stats = time.perf_counter() - started, server.stats()
    with FakeBatches() as server:
        teacher = f"batch:m?base_url={server.url}&poll=0.02"
        whole = run_whole([*write_prompts(folder, number), "--teacher", teacher], folder / "whole")
    executed, wrong = stats["executed"], differing(folder)
    again = sum(executed.values()) - len(executed)
    ended = Counter(batch["status"] for batch in stats["batches"])
    print(f"batch: {done} kills in {wall:.0f} s over {number:,} prompts; batches: {dict(ended)}")
    bounds = [
        Bound("kills", done, kills),
        Bound("data files that differ", float(whole != killed), 0, most=True),
        Bound("prompts never executed", number - len(executed), 0, most=True),
        Bound("prompts executed (and paid) once more", again, 0, most=True),
        Bound("kept records missing or doubled", wrong, 0, most=True),
    ]
    figures = {"kills": done, "prompts": number, "wall_s": wall, "batches": ended, "repeated": again, "wrong": wrong}
    return finish("soak_batch", given, figures, bounds)


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
    print(f"vllm: {kills} kills in {wall:.0f} s over {number:,} records; replies on the disk at each: {killed.replies}")
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
