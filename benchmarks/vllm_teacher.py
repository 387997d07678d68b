"""What kdaug costs on top of vLLM in process: its tokens a second beside those of vLLM's own `LLM.chat`.

LLM.chat   a list of conversations, all at once
kdaug      a whole run of `respond`: what is in flight is bounded, every reply is on the disk

The same prompts, greedy sampling and engine arguments; each engine in a process of its own, one after the other,
measured after the same warm-up, until the last answer: of a run from its start, and until all is on the disk. The end
of the engine is in neither. The figure on the last line is the share of `LLM.chat`'s throughput that a run reaches.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from harness import Bound, finish, measured, options, table

import kdaug as kd
from kdaug.models import find_model
from kdaug.teachers.engine_arguments import cpu_environment, defaults
from kdaug.teachers.vllm import ENVIRONMENT, QUIET

CONTEXT, MAX_TOKENS, WARM_UP = 1024, 48, 16


def questions(number: int, topic: str) -> list[str]:
    """Different from the first word on, so that no engine finds one in its cache; their answers fill MAX_TOKENS."""
    return [f"{i}. Tell a long and detailed story about {topic} number {i * 7919 % 10007}." for i in range(number)]


def llm_chat(model: str | None, number: int, concurrency: int) -> dict[str, float]:
    os.environ.update(ENVIRONMENT | cpu_environment({}))
    from vllm import LLM, SamplingParams

    llm = LLM(model=find_model(model).path, **defaults(concurrency, None), max_model_len=CONTEXT, **QUIET)
    how = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)

    def chat(prompts: list[str]) -> int:
        outs = llm.chat([[{"role": "user", "content": p}] for p in prompts], how, use_tqdm=False)
        return sum(len(out.outputs[0].token_ids) for out in outs)

    chat(questions(WARM_UP, "a lighthouse"))
    began = time.perf_counter()
    tokens = chat(questions(number, "a river"))
    return {"tokens": tokens, "seconds": time.perf_counter() - began}


class Timed(kd.VLLM):
    """Notes when it is closed: by then the last reply is on the disk, and vLLM takes 5 s to end."""

    async def aclose(self) -> None:
        self.closed = time.perf_counter()
        await super().aclose()


async def run(model: str | None, number: int, concurrency: int, folder: Path) -> dict[str, float]:
    engine = Timed(model, concurrency, max_model_len=CONTEXT)
    await engine.open(folder)
    how = kd.Sampling(temperature=0.0, max_tokens=MAX_TOKENS)
    warm_up = [kd.Request(kd.user(q), how) for q in questions(WARM_UP, "a lighthouse")]
    await asyncio.gather(*map(engine.generate, warm_up))
    seeds = [kd.Record(prompt=kd.user(q)) for q in questions(number, "a river")]
    respond = kd.Respond(temperature=0.0, max_tokens=MAX_TOKENS, keep_cut=True)
    began = time.perf_counter()
    await kd.arun(kd.Recipe(kd.Each(seeds), [kd.Stage(respond)]), folder / "run", quiet=True, teacher=engine)
    facts = json.loads((folder / "run" / "run.json").read_text("utf-8"))
    return {"tokens": facts["usage"][engine.name]["completion_tokens"], "seconds": engine.closed - began}


WAYS = ("LLM.chat", "kdaug")


def one_way(given: Any) -> dict[str, float]:
    """What the process of one engine measures."""
    if given.way == "LLM.chat":
        return llm_chat(given.model, given.number, given.concurrency)
    with tempfile.TemporaryDirectory() as name:
        return asyncio.run(run(given.model, given.number, given.concurrency, Path(name)))


def compared(given: Any, number: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Round-robin, so that a busy moment of the machine meets all alike."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        result = Path(name) / "result.json"
        for turn in range(rounds):
            for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
                words = [sys.executable, __file__, "--way", way, "--number", str(number), "--result", str(result)]
                words += ["--concurrency", str(given.concurrency), *(["--model", given.model] if given.model else [])]
                measured(words)
                one = json.loads(result.read_text("utf-8"))
                found[way].append(one)
                print(f"{way}: {one['tokens']:,.0f} tokens in {one['seconds']:.1f} s", flush=True)
    return found


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--model", help="a folder or a Hub id; by default the embedded SmolLM2-135M-Instruct")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--number", type=int, default=128, help="prompts")
    parser.add_argument("--way", choices=WAYS, help="(one engine, in this process)")
    parser.add_argument("--result", type=Path)
    given = parser.parse_args()
    if given.way:
        given.result.write_text(json.dumps(one_way(given)), "utf-8")
        return 0
    number, rounds = (64, 1) if given.quick else (given.number, given.rounds)
    found = compared(given, number, rounds)
    rate = {way: median(one["tokens"] / one["seconds"] for one in ones) for way, ones in found.items()}
    tokens = {way: median(one["tokens"] for one in ones) for way, ones in found.items()}
    rows = [[w, f"{tokens[w]:,.0f}", f"{rate[w]:,.0f}", f"{rate[w] / rate['LLM.chat']:.3f}"] for w in WAYS]
    print(table(["", "tokens", "tokens/s", "of LLM.chat"], rows))
    ratio = rate["kdaug"] / rate["LLM.chat"]
    bounds = [Bound("throughput over LLM.chat's", ratio, 0.85 if given.quick else 0.95)]  # one short round is noisy
    figures = {"prompts": number, "max_tokens": MAX_TOKENS, "concurrency": given.concurrency, "model": given.model}
    return finish("vllm_teacher", given, figures | {"tokens_per_s": rate, "rounds": found}, bounds)


if __name__ == "__main__":
    raise SystemExit(main())
