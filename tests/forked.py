"""`kdaug …` in a process of its own, forked from one that has imported what training imports: that takes seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from servers.run import free_port

CONTEXT = get_context("forkserver")
# Nothing that starts threads: the server forks.
CONTEXT.set_forkserver_preload(
    [
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.llama.modeling_llama",
        "torch.distributed.fsdp",
        "kdaug.cli",
        "kdaug.train.distill",
        "matplotlib.figure",
        "peft",
    ]
)


def start(command: Sequence[str] | str, log: Path | None = None, **environment: str) -> ForkServerProcess:
    """`kdaug` with these words, or Python code; what it says goes into the log. Its `exitcode` is that of the command,
    or -SIGNAL."""
    process = CONTEXT.Process(target=_run, args=(command, str(log or os.devnull), environment), daemon=True)
    process.start()
    return process


def start_ranks(command: Sequence[str], number: int) -> list[ForkServerProcess]:
    """So many processes that train together, as torchrun starts them."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(number)}
    return [start(command, RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank in range(number)]


def check(*processes: ForkServerProcess) -> None:
    """Waits for their end, which is a good one."""
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def _run(command: Sequence[str] | str, log: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if isinstance(command, str):
        exec(command, {"__name__": "__main__"})
    else:
        from kdaug.cli import main

        sys.exit(main(command))
