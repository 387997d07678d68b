"""Where a local model computes: its device, its precision, its threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter

from kdaug.errors import ConfigError

ROUNDS, PRODUCTS = 6, 2  # some 5 ms a round: a scheduler's slice


def pick_device(wanted: str) -> str:
    """`auto`: CUDA if it is there, else the CPU. Each process that torchrun started has a GPU of its own."""
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={wanted!r}, but this machine or this build of torch has no CUDA: use device='cpu'")
    if wanted != "cpu" and not wanted.startswith("cuda"):
        raise ConfigError(f"device={wanted!r}: give 'auto', 'cpu', 'cuda' or 'cuda:1'")
    if wanted == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return wanted


def computes_in_half(device: str) -> bool:
    """Whether bfloat16 is fast here: on a CPU only with instructions for it, else it is emulated and far slower."""
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@cache
def half_is_faster(device: str) -> bool:
    """Whether bfloat16 multiplies at least 1.5 times as fast as float32: on a CPU measured once, in some 10 ms."""
    import torch

    if device.startswith("cuda") or not computes_in_half(device):
        return computes_in_half(device)

    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
        out = torch.mm(left, right)
        best = float("inf")
        for _ in range(2 * ROUNDS):
            start = perf_counter()
            torch.mm(left, right, out=out)
            best = min(best, perf_counter() - start)
        return best

    return seconds(torch.bfloat16) * 1.5 < seconds(torch.float32)


def fastest_threads() -> int:
    """The number of CPU threads that multiplies fastest right now, at most torch's own.

    Measured, because on a busy machine two threads can be 30 times slower than one: each waits for the other's core. So
    the worst round counts: a neighbour that comes and goes is seen in one of them.
    """
    import torch

    before = int(torch.get_num_threads())
    most = min(before, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    left, right = torch.ones(256, 576), torch.ones(576, 1536)

    def seconds(count: int) -> float:
        torch.set_num_threads(count)
        torch.mm(left, right)
        worst = 0.0
        for _ in range(ROUNDS):
            start = perf_counter()
            for _ in range(PRODUCTS):
                torch.mm(left, right)
            worst = max(worst, perf_counter() - start)
        return worst

    best = min(counts, key=seconds)
    torch.set_num_threads(before)
    return best


@contextmanager
def threads() -> Iterator[int]:
    """The fastest number of CPU threads, set within."""
    import torch

    before, best = torch.get_num_threads(), fastest_threads()
    torch.set_num_threads(best)
    try:
        yield best
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and remarks of transformers while it loads and saves."""
    from transformers import modeling_gguf_pytorch_utils as gguf_loader
    from transformers.utils import logging

    bars, verbosity, gguf_bar = logging.is_progress_bar_enabled(), logging.get_verbosity(), gguf_loader.tqdm
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    gguf_loader.tqdm = lambda items, **_: items  # it takes tqdm's own class, which has no switch
    try:
        yield
    finally:
        gguf_loader.tqdm = gguf_bar
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
