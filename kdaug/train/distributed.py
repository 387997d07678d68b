"""Several processes train one student: torchrun starts them, and each holds a part of weights, gradients and moments.

That is FSDP2 (`fully_shard`). A step is the same whatever their number: its forward passes are dealt out, and its loss
is the sum over all of them divided by their whole weight. So a checkpoint goes on with any number of processes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

if TYPE_CHECKING:
    from torch import Tensor

    from kdaug.train.student import Student

Pass = TypeVar("Pass")
Item = TypeVar("Item")
Result = TypeVar("Result")
ABOUT = "about.json"


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together: one, unless torchrun started more. The first of them writes the folder."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def deal(self, passes: Sequence[Pass]) -> list[tuple[int, Pass, bool]]:
        """This process's forward passes with their number, and whether each counts.

        All processes make equally many, as they exchange weights in them: who has none left repeats the last of all.
        """
        rounds = -(-len(passes) // self.size)
        mine = range(self.rank, rounds * self.size, self.size)
        last = len(passes) - 1
        return [(min(i, last), passes[min(i, last)], i <= last) for i in mine]

    def spread(self, items: Sequence[Item], do: Callable[[Sequence[Item]], Sequence[Result]]) -> list[Result]:
        """What `do` makes of each item, of which every process does its part; all of them get all."""
        if self.size == 1:
            return list(do(items))
        import torch.distributed as dist

        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(do(items[self.rank :: self.size])))
        return [parts[i % self.size][i // self.size] for i in range(len(items))]

    def add(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes."""
        return self._reduce(values, "SUM")

    def most(self, value: float) -> float:
        """The highest of all processes."""
        return self._reduce([value], "MAX")[0]

    def wait(self) -> None:
        """For all the others."""
        self.add([0.0])

    def _reduce(self, values: Sequence[float], how: str) -> list[float]:
        if self.size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        reduced = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(reduced, getattr(dist.ReduceOp, how))
        found: list[float] = reduced.tolist()
        return found


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The processes that torchrun started, connected within: by NCCL on GPUs, by gloo on CPUs."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    import torch
    import torch.distributed as dist

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def shard(student: Student, world: World, beside: Any = None) -> None:
    """Leave in this process its part of the student's weights, and of the modules of `beside`: layer by layer they are
    made whole as they are used.

    The head is no module that is called (its logits are computed in pieces), so it is made whole by `whole`; a reward
    model has none.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.nn import Parameter

    model, base = student.model, student.model.base_model
    mesh = init_device_mesh(student.device.partition(":")[0], (world.size,))
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is embedding.weight
    called = [*(() if beside is None else beside.children()), *([model.score] if hasattr(model, "score") else [])]
    for module in [*getattr(base, "layers", ()), base, *called]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        # Gradients are summed, not averaged: each is of its passes' share of the whole loss already.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    if tied:
        head.weight = embedding.weight
    elif head is not None:
        part = distribute_tensor(head.weight.detach(), mesh, [Shard(0)])
        head.weight = Parameter(part, requires_grad=head.weight.requires_grad)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which this process may hold a part only; all processes ask for it together. Gradients are summed."""
    if not hasattr(tensor, "full_tensor"):  # no DTensor, whose import takes a while
        return tensor
    from torch.distributed.tensor import Partial

    return tensor.full_tensor(grad_placements=[Partial()])


def gathered(student: Student) -> dict[str, Tensor]:
    """The student's whole weights, in the memory of the CPU."""
    import torch

    with torch.no_grad():
        return {name: whole(value).cpu() for name, value in student.model.state_dict().items()}


def fill(target: Tensor, value: Tensor) -> None:
    """target ← value, a part of it where `target` is a part."""
    if hasattr(target, "full_tensor") and not hasattr(value, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value, target.device_mesh, target.placements)
    target.detach().copy_(value)


def write_parts(checkpoint: Path, about: Mapping[str, Any], tensors: Mapping[str, Any], world: World) -> None:
    """Each process writes its part of `tensors` (a tree of dicts), into a folder that has its name when it is whole.

    `about` must hold the step.
    """
    import torch.distributed.checkpoint as dcp

    target = checkpoint.with_name(f"{checkpoint.stem}-{about['step']:09}.parts")
    tmp = target.with_suffix(".tmp")
    if world.first:
        for other in (tmp, target):
            shutil.rmtree(other, ignore_errors=True)
        tmp.mkdir(parents=True)
        (tmp / ABOUT).write_bytes(orjson.dumps(dict(about)))
    world.wait()
    dcp.save(dict(tensors), checkpoint_id=tmp)
    world.wait()
    if world.first:
        tmp.replace(target)
        checkpoint.unlink(missing_ok=True)
        for other in all_parts(checkpoint):
            if other != target:
                shutil.rmtree(other)
    world.wait()


def all_parts(checkpoint: Path) -> list[Path]:
    """What `write_parts` has written, the latest last; whole but for what a kill left of deleting earlier ones."""
    return sorted(checkpoint.parent.glob(f"{checkpoint.stem}-*.parts"))


def read_about(parts: Path) -> dict[str, Any]:
    about: dict[str, Any] = orjson.loads((parts / ABOUT).read_bytes())
    return about


def read_parts(parts: Path, tensors: Mapping[str, Any], world: World) -> None:
    """Into tensors that are there, whatever part of the whole they are now."""
    import torch.distributed.checkpoint as dcp

    dcp.load(dict(tensors), checkpoint_id=parts, no_dist=world.size == 1)
