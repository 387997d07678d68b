"""Training SmolLM2-135M with kdaug and with TRL: tokens a second of one CPU thread (or of a GPU), and peak memory.

sft    packed rows, one a step
dpo    pairs, some a step; the reference's log-probabilities computed before, in neither figure

Both train in one precision, at one constant learning rate, on the same tokens in the same order, so that their loss
curves must agree; each in a process of its own, in turns. Measured from the end of the first step to the end of the
last; padding is not counted. The figure on the last line is how many times as many tokens kdaug trains in SFT.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from harness import Bound, finish, measured, options, table

from kdaug.chat import Chat
from kdaug.models import find_model
from kdaug.prompts import shipped
from kdaug.read import read
from kdaug.record import Record, assistant, text_of
from kdaug.train.batching import IGNORE, Document, encode, pack

HERE = Path(__file__).parent
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SIDES = ("kdaug", "TRL")
CLOSE = {"fp32": 0.01, "bf16": 0.05}  # nats that two loss curves may be apart
# Dense bfloat16 FLOP/s, by the makers' data sheets.
PEAK = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L4": 121e12, "L40S": 362e12, "4090": 165e12, "B200": 2250e12}


@dataclass(frozen=True)
class Task:
    method: str
    model: str
    length: int
    batch: int
    steps: int
    precision: str
    lr: float
    beta: float = 0.1


def records(method: str) -> Iterator[Record]:
    """The shipped seeds, their answers joined to answers of one to five: some 20 to 500 tokens."""
    rng, seeds = Random(5), list(read(shipped() / "seeds" / "seeds.jsonl"))

    def answer() -> str:
        return "\n\n".join(text_of(rng.choice(seeds).completion) for _ in range(rng.randint(1, 5)))

    while True:
        prompt = rng.choice(seeds).prompt
        rejected = assistant(answer()) if method == "dpo" else None
        yield Record(prompt=prompt, completion=assistant(answer()), rejected=rejected)


def enough(task: Task, chat: Chat) -> list[Record]:
    """Pairs for all steps, or as many completions as fill their rows."""
    if task.method == "dpo":
        return list(islice(records("dpo"), task.steps * task.batch))
    room, found = task.steps * task.batch * task.length, list[Record]()
    for record in records("sft"):
        room -= encode([record], "completion", chat, task.length).tokens
        if room < 0:
            break
        found.append(record)
    return found


def in_order(task: Task, units: list[Any]) -> list[Any]:
    """As kdaug's loop takes them in its first epoch."""
    Random("0/0").shuffle(order := list(range(len(units))))
    return [units[i] for i in order]


def sft_rows(task: Task, data: list[Record], chat: Chat) -> list[dict[str, Any]]:
    """kdaug's packed rows as TRL takes them: a label stands at its own token, not before it."""
    documents = [d for (d,) in encode(data, "completion", chat, task.length).documents]

    def row(held: list[Document]) -> dict[str, Any]:
        labels = [label for d in held for label in (IGNORE, *d.targets[:-1])]
        return {"input_ids": [t for d in held for t in d.ids], "labels": labels, "seq_lengths": [len(d) for d in held]}

    plan = pack([len(d) for d in documents], task.length)
    return in_order(task, [row([documents[i] for i in places]) for places in plan])


def dpo_rows(task: Task, data: list[Record], chat: Chat) -> list[dict[str, Any]]:
    def row(record: Record) -> dict[str, Any]:
        prompt = chat.render(record.prompt, ask=True)
        sides = {"chosen": record.completion or (), "rejected": record.rejected or ()}
        texts = {side: chat.speak(record.prompt, said).text.rstrip() for side, said in sides.items()}
        return {"prompt": prompt} | {side: text.removeprefix(prompt) for side, text in texts.items()}

    return in_order(task, [row(record) for record in data])


def train_with_kdaug(task: Task, data: list[Record], work: Path) -> dict[str, Any]:
    from kdaug.train.loop import Step
    from kdaug.train.preference import DPO
    from kdaug.train.sft import SFT

    wall, cpu, steps = list[float](), list[float](), list[Step]()

    def on_step(step: Step) -> None:
        wall.append(time.perf_counter())
        cpu.append(time.process_time())
        steps.append(step)

    how: dict[str, Any] = {"epochs": 1, "lr": task.lr, "length": task.length, "batch": task.batch, "accumulate": 1}
    how |= {"warmup": 0.0, "floor": 1.0, "clip": 1.0, "save_every": 10**6, "dtype": DTYPES[task.precision]}
    trainer: SFT | DPO = DPO(beta=task.beta, **how) if task.method == "dpo" else SFT(**how)
    trainer.fit(data, student=task.model, out=work / "model", on_step=on_step)
    told = {"wall": wall, "cpu": cpu, "losses": [s.loss for s in steps], "tokens": [s.tokens for s in steps]}
    return told | {"peak_mb": peak_mb()}


def peak_mb() -> float:
    """Of the GPU's memory, else of the process."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def worker(given: argparse.Namespace) -> int:
    """One training by kdaug, in a process of its own."""
    plan = json.loads(given.worker.read_text("utf-8"))
    data = [Record.from_json(plain) for plain in plan["records"]]
    told = train_with_kdaug(Task(**plan["task"]), data, given.worker.parent)
    (given.worker.parent / "kdaug.json").write_text(json.dumps(told), "utf-8")
    return 0


def compare(task: Task, rounds: int) -> dict[str, dict[str, Any]]:
    """Both sides in turns; of each the median rate, the highest peak and the losses."""
    chat = Chat.load(task.model)
    data = enough(task, chat)
    rows = (sft_rows if task.method == "sft" else dpo_rows)(task, data, chat)
    told: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            with tempfile.TemporaryDirectory() as folder:
                work = Path(folder)
                plan = {"task": asdict(task), "records": [r.to_json() for r in data]}
                (work / "kdaug.task").write_text(json.dumps(plan), "utf-8")
                (work / "TRL.task").write_text(json.dumps(asdict(task) | {"rows": rows}), "utf-8")
                here = {"kdaug": [HERE / "train.py", "--worker", work / "kdaug.task"]}
                here["TRL"] = [HERE / "peers" / "with_trl.py", work / "TRL.task", work / "TRL.json"]
                measured([sys.executable, *map(str, here[side])])
                told[side].append(json.loads((work / f"{side}.json").read_text("utf-8")))
    tokens = told["kdaug"][0]["tokens"]
    return {side: summary(tries, tokens) for side, tries in told.items()} | {"tokens": tokens}


def summary(tries: list[dict[str, Any]], tokens: list[int]) -> dict[str, Any]:
    after_first = sum(tokens[1:])
    return {
        "tokens_per_s": median(after_first / (t["wall"][-1] - t["wall"][0]) for t in tries),
        "tokens_per_cpu_s": median(after_first / (t["cpu"][-1] - t["cpu"][0]) for t in tries),
        "peak_mb": max(t["peak_mb"] for t in tries),
        "losses": tries[0]["losses"],
    }


def utilisation(task: Task, tokens_per_s: float) -> float | None:
    """Model FLOP/s over the card's: 6 a weight and token, and 6·length·width a layer for half the attention."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    name = torch.cuda.get_device_name()
    peak = next((peak for card, peak in PEAK.items() if card in name), None)
    if peak is None:
        return None
    config = AutoConfig.from_pretrained(task.model)
    with torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(config).num_parameters()
    return float(tokens_per_s * (6 * weights + 6 * config.num_hidden_layers * task.length * config.hidden_size) / peak)


def tasks(given: argparse.Namespace) -> list[Task]:
    import torch

    model = find_model(given.model).path
    if torch.cuda.is_available():
        steps = 8 if given.quick else 30
        return [Task("dpo", model, 8192, 16, steps, "bf16", 1e-6), Task("sft", model, 8192, 2, steps, "bf16", 1e-5)]
    from kdaug.device import computes_in_half

    precision = "bf16" if computes_in_half("cpu") else "fp32"
    length, pairs = (512, 2) if given.quick else (1024, 3)
    return [Task("dpo", model, length, pairs, 3, precision, 1e-6), Task("sft", model, length, 1, 3, precision, 1e-5)]


def show(task: Task, found: dict[str, Any], rate: str) -> None:
    rows = [(side, f"{found[side][rate]:,.0f}", f"{found[side]['peak_mb']:,.0f}") for side in SIDES]
    unit = "tokens per CPU-second" if rate == "tokens_per_cpu_s" else "tokens/s"
    print(f"{task.method}, {task.precision}, {sum(found['tokens']):,} tokens in {len(found['tokens'])} steps")
    print(table(("", unit, "peak MB"), rows))
    if rate == "tokens_per_s":
        for side in SIDES:
            share = utilisation(task, found[side][rate])
            print(f"{side}: MFU {'unknown' if share is None else f'{share:.1%}'}")


def apart(found: dict[str, Any]) -> float:
    """How far the two loss curves are from each other at most, in nats."""
    pairs = zip(*(found[side]["losses"] for side in SIDES), strict=True)
    return float(max(abs(ours - theirs) for ours, theirs in pairs))


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--model", default="smollm2", help="a folder, a Hub id, or smollm2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return worker(given)
    import torch

    rate = "tokens_per_s" if torch.cuda.is_available() else "tokens_per_cpu_s"
    figures: dict[str, Any] = {"trl": version("trl")}
    bounds = []
    for task in tasks(given):
        found = compare(task, 1 if given.quick else given.rounds)
        show(task, found, rate)
        ours, theirs = found["kdaug"], found["TRL"]
        name = task.method.upper()
        bounds += [
            Bound(f"{name}: how far the loss curves are apart", apart(found), CLOSE[task.precision], most=True),
            Bound(f"{name}: peak memory over TRL's", ours["peak_mb"] / theirs["peak_mb"], 0.85, most=True),
            Bound(f"{name}: tokens over TRL's", ours[rate] / theirs[rate], 1.5 if task.method == "sft" else 1.6),
        ]
        figures[task.method] = {"task": asdict(task) | {"model": given.model}, **found}
    return finish("train", given, figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
