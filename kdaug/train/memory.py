"""How much memory a training will take, measured on its largest batch before the first step; and where it gives out."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaug.errors import TrainError

if TYPE_CHECKING:
    from torch import Tensor


LESS = "lower batch and raise accumulate, lower length, use gradient_checkpointing or lora_rank"


@contextmanager
def enough(device: str) -> Iterator[None]:
    """Raises TrainError where memory gives out within."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as e:
        named = isinstance(e, torch.OutOfMemoryError | MemoryError)
        # Of a CPU's memory torch says it in words only.
        if not (named or "not enough memory" in str(e) or "can't allocate memory" in str(e)):
            raise
        raise TrainError(f"out of memory on {device}: {LESS}") from e


def peak_of(work: Callable[[], object], device: str, there: Iterable[Tensor]) -> int:
    """The most bytes that tensors made by `work` take at one time, those that were `there` before left out."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = int(torch.cuda.memory_allocated(device))
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    tracker = _tracker(there)
    with tracker:
        work()
    return int(tracker.peak)


def in_use(device: str) -> int:
    """Bytes that this process holds now: on the GPU, or of the machine's memory."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.memory_allocated(device))
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_so_far()


def peak_so_far() -> int:
    """The most bytes of the machine's memory that this process ever held."""
    import resource
    import sys

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def capacity(device: str) -> int:
    """Bytes that the GPU has, or that this process may use of the machine's memory."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(there, int(text)) if text.isdigit() else there


def _tracker(there: Iterable[Tensor]) -> Any:
    """A dispatch mode that sees each operation's results, also those of the backward pass."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Tracker(TorchDispatchMode):  # type: ignore[misc]  # torch's types are not followed
        def __init__(self) -> None:
            super().__init__()
            self.live = self.peak = 0
            self.known: dict[int, Any] = {}
            for tensor in there:
                self._note(tensor.untyped_storage(), 0)

        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = op(*args, **(kwargs or {}))
            for result in tree_leaves(found):
                if isinstance(result, Tensor):
                    storage = result.untyped_storage()
                    self._note(storage, storage.nbytes())
            self.peak = max(self.peak, self.live)
            return found

        def _note(self, storage: Any, size: int) -> None:
            key = storage._cdata
            if key not in self.known:

                def gone(_: Any) -> None:
                    del self.known[key]
                    self.live -= size

                self.known[key] = weakref.ref(storage, gone)
                self.live += size

    return Tracker()
