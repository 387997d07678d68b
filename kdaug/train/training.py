"""A training at one of its steps: weights, optimiser, random state; and how to take the next step."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import orjson

from kdaug.errors import TrainError
from kdaug.train.average import Average
from kdaug.train.batching import Document
from kdaug.train.checkpoint import check_facts, read_state, write_state
from kdaug.train.distributed import World, all_parts, fill, gathered, read_about, read_parts, shard, whole, write_parts
from kdaug.train.folder import ASIDE, Folder
from kdaug.train.guard import IN_A_ROW, Guard
from kdaug.train.lora import Adapter
from kdaug.train.settings import Settings
from kdaug.train.stopping import Stop
from kdaug.train.student import Student

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
Unit = TypeVar("Unit")
Measured = TypeVar("Measured", contravariant=True)
# Adam's moments as in InstructGPT (arXiv 2203.02155, appendix C).
BETAS = (0.9, 0.95)
ALONE = World()


class Objective(Protocol[Measured]):
    """What is minimised: the sum of `loss` over a step's units, divided by the sum of their `weight`."""

    def weight(self, unit: Measured) -> int: ...
    def documents(self, unit: Measured) -> Sequence[Document]: ...
    def loss(self, units: Sequence[Measured]) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss of some units, and further sums to report (divided by the same weight)."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """What `on_step` is told. `tokens` of this step, padding not counted; `more`: e.g. DPO's margin.

    `skipped`: why its batch was not trained on; `held_out`: the loss on the held-out records, where it was looked at.
    """

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    more: dict[str, float] = field(default_factory=dict)
    skipped: str = ""
    held_out: float | None = None

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        optional = {"skipped": self.skipped, "held_out": self.held_out}
        told = {name: plain[name] for name in plain if name not in ("steps", "more", *optional)}
        return told | self.more | {name: value for name, value in optional.items() if value not in ("", None)}


OnStep = Callable[[Step], object]
# (a step's units, the training before that step) -> the units that it is taken on.
Begin: TypeAlias = "Callable[[Sequence[Unit], Training[Unit]], Sequence[Unit]]"


def rate(how: Settings, step: int, steps: int) -> float:
    """The learning rate of step 1…steps: linear warm-up, then half a cosine down to `floor` of the peak."""
    warm = round(how.warmup * steps)
    if step <= warm:
        return how.lr * step / warm
    done = (step - warm) / max(1, steps - warm)
    return how.lr * (how.floor + (1 - how.floor) * 0.5 * (1 + math.cos(math.pi * done)))


class Training(Generic[Unit]):
    """Weights, optimiser and random state after `step` steps, and how to take the next one."""

    def __init__(
        self,
        how: Settings,
        student: Student,
        units: Sequence[Unit],
        objective: Objective[Unit],
        folder: Folder,
        held_out: Sequence[Unit] = (),
        world: World = ALONE,
        begin: Begin[Unit] | None = None,
        beside: Any = None,
    ) -> None:
        import torch

        self.how, self.student, self.units, self.objective, self.folder = how, student, units, objective, folder
        self.held_out, self.world, self.begin = held_out, world, begin
        self.per_epoch = math.ceil(len(units) / (how.batch * how.accumulate))
        self.steps = how.taken(len(units))
        self.step, self.seconds, self.settled = 0, 0.0, True
        self._copy: tuple[Student, Adapter | None] | None = None
        torch.manual_seed(how.seed)
        self.adapter = self._adapt(student.model)  # alike in all processes
        if world.rank:
            torch.manual_seed(how.seed + world.rank)
        self.model = student.model.train()
        if how.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if world.size > 1:
            shard(student, world, beside)
        self.weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if beside is not None:
            self.weights |= {f"beside.{name}": p for name, p in beside.named_parameters()}
        groups = [
            {"params": [p for p in self.weights.values() if p.ndim > 1], "weight_decay": how.weight_decay},
            {"params": [p for p in self.weights.values() if p.ndim <= 1], "weight_decay": 0.0},  # norms and biases
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=how.lr, betas=BETAS, fused=True)
        self.average = Average(self.weights, how.ema)
        self.guard, self.stop = Guard(how.spike), Stop(patient=world.size > 1)
        self.best, self.random = math.inf, self._random()

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        file, facts = self.folder.checkpoint, self.folder.facts
        saved = read_state(file, facts, self.student.device)
        parts = all_parts(file)
        about: dict[str, Any] = read_about(parts[-1]) if parts else {"step": 0}
        if about["step"] > saved.get("step", 0):  # written by several processes
            check_facts(parts[-1], about["facts"], facts)
            self._take_up(about, self._read_parts(parts[-1], about))
        elif saved:
            self._put(saved["weights"])
            self._take_up(saved, saved)
        if self.world.first and not self.how.dry_run:
            self.folder.rewind(self.step)
        self.world.wait()
        self.guard = Guard(self.how.spike, self.folder.metrics())
        self.best = read_state(self.folder.best, facts, "cpu").get("loss", math.inf)

    def save(self) -> bool:
        """The checkpoint; not in the middle of an update, when weights are of two steps."""
        if not (self.settled and self.step):
            return False
        file, facts = self.folder.checkpoint, self.folder.facts
        about: dict[str, Any] = {"step": self.step, "seconds": self.seconds}
        if self.world.size == 1:
            write_state(file, facts, {**about, **self._tensors(), "random": self.random})
            for other in all_parts(file):
                shutil.rmtree(other)
        else:
            tensors = {**self._tensors(), f"random-{self.world.rank}": dict(enumerate(self.random))}
            about |= {"facts": facts, "updated": bool(self.optimizer.state), "processes": self.world.size}
            write_parts(file, about, tensors, self.world)
        return True

    def _tensors(self) -> dict[str, Any]:
        """What a training is made of; before its first update there are no moments."""
        moments = {n: dict(self.optimizer.state[w]) for n, w in self.weights.items() if w in self.optimizer.state}
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        return {"weights": weights, "moments": moments, "average": self.average.means}

    def _read_parts(self, parts: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        """The weights in place; moments, averages and, with as many processes as then, random states returned."""
        import torch

        tensors = self._tensors()
        if about["updated"]:
            tensors["moments"] = {
                name: {"step": torch.zeros(()), "exp_avg": torch.zeros_like(w), "exp_avg_sq": torch.zeros_like(w)}
                for name, w in tensors["weights"].items()
            }
        mine = f"random-{self.world.rank}"
        if about["processes"] == self.world.size:
            tensors[mine] = dict(enumerate(self.random))
        read_parts(parts, tensors, self.world)
        return tensors | {"random": list(tensors[mine].values()) if mine in tensors else self.random}

    def _take_up(self, about: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        import torch

        for name, moments in tensors["moments"].items():
            weight = self.weights[name]
            mine = {"step": moments["step"].to(self.student.device)}
            for moment in ("exp_avg", "exp_avg_sq"):
                mine[moment] = torch.zeros_like(weight)
                fill(mine[moment], moments[moment])
            self.optimizer.state[weight] = mine
        for name, mean in tensors["average"].items():
            fill(self.average.means[name], mean)
        self.step, self.seconds, self.random = about["step"], about["seconds"], tensors["random"]
        torch.set_rng_state(self.random[0].cpu())
        if len(self.random) > 1 and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.random[1].cpu())

    def advance(self) -> Step:
        """One optimiser step over the next `batch * accumulate` units; none where the guard finds fault with them."""
        import torch

        began, step = perf_counter(), self.step + 1
        units = self.next_units() if self.begin is None else self.begin(self.next_units(), self)
        with self.stop.at_once():
            loss, more, each = self.gradients(units)
            norm = float(whole(torch.nn.utils.clip_grad_norm_(self.weights.values(), self.how.clip or math.inf)))
        lr = rate(self.how, step, self.steps)
        if fault := self.guard.fault(loss, norm):
            self._put_aside(step, units, each, fault)
        else:
            self._update(lr)
        self.guard.note(loss, fault)
        self.optimizer.zero_grad(set_to_none=True)
        self.step, self.random = step, self._random()
        seconds = perf_counter() - began
        self.seconds += seconds
        tokens = self.tokens(units)
        return Step(step, self.steps, loss, lr, norm, tokens, tokens / seconds, more, fault)

    def judge(self) -> tuple[float, dict[str, float]]:
        """The mean loss over the held-out units, and the other means; the best weights so far are kept."""
        import torch

        with self.average.in_place(), torch.random.fork_rng(self._cuda()), torch.no_grad():
            self.model.eval()
            loss, more, _ = self._sums(self.held_out, lambda loss: None)
            self.model.train()
            if loss < self.best:
                weights = {name: whole(weight.detach()) for name, weight in self.weights.items()}
                if self.world.first:
                    write_state(
                        self.folder.best, self.folder.facts, {"step": self.step, "loss": loss, "weights": weights}
                    )
                self.best = loss
        return loss, {f"held_out_{name}": value for name, value in more.items()}

    def settle(self) -> tuple[Student, dict[str, Any]]:
        """The student with the weights that it keeps, the best or the averaged ones, and which these are."""
        told: dict[str, Any] = {"averaged": True} if self.how.ema else {}
        self._put(self.average.means)
        if best := read_state(self.folder.best, self.folder.facts, self.student.device):
            self._put(best["weights"])
            told |= {"best_step": best["step"], "held_out": best["loss"]}
        student, adapter = self.whole()
        if adapter is not None and self.world.first:
            adapter.merge(self.folder.path)
        return student, told

    def whole(self) -> tuple[Student, Adapter | None]:
        """The student as it is with all of its weights in this process, and its adapter; of several processes all ask
        for it together, and each keeps its copy."""
        import torch

        if self.world.size == 1:
            return self.student, self.adapter
        weights = gathered(self.student)
        if self._copy is None:
            with torch.random.fork_rng(self._cuda()):  # what is made here is filled below
                plain = type(self.student.model)(self.student.model.config)
                adapter = self._adapt(plain)
            self._copy = replace(self.student, model=plain.to(self.student.device)), adapter
        self._copy[0].model.load_state_dict(weights)
        return self._copy

    def _adapt(self, model: Any) -> Adapter | None:
        """The model with LoRA's matrices, if they are wanted."""
        return Adapter(model, self.how, self.folder.about["student"]) if self.how.lora_rank else None

    def _update(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.settled = False
        self.optimizer.step()
        self.average.update()
        self.settled = True

    def tokens(self, units: Sequence[Unit]) -> int:
        return sum(len(document) for unit in units for document in self.objective.documents(unit))

    def gradients(self, units: Sequence[Unit], keep: bool = False) -> tuple[float, dict[str, float], list[float]]:
        """Gradients of the mean over all the units, however they are split into forward passes.

        `keep` adds them to those that are there.
        """
        total = sum(self.objective.weight(unit) for unit in units)
        if not keep:
            self.optimizer.zero_grad(set_to_none=True)
        return self._sums(units, lambda loss: (loss / total).backward())

    def _sums(
        self, units: Sequence[Unit], use: Callable[[Tensor], object]
    ) -> tuple[float, dict[str, float], list[float]]:
        """Mean loss, other means, and the mean loss of each forward pass, whose summed loss is handed to `use`."""
        passes = [units[at : at + self.how.batch] for at in range(0, len(units), self.how.batch)]
        weights = [sum(self.objective.weight(unit) for unit in some) for some in passes]
        each: list[Any] = [0.0] * len(passes)
        sums: dict[str, Tensor] = {}
        for i, some, counts in self.world.deal(passes):
            loss, more = self.objective.loss(some)
            use(loss if counts else 0 * loss)
            for name, value in {"loss": loss, **more}.items():
                sums[name] = sums.get(name, 0.0) + (value.detach() if counts else 0.0)
            each[i] = loss.detach() if counts else each[i]
        added = self.world.add([float(value) for value in [*sums.values(), *each]])
        means = {name: value / sum(weights) for name, value in zip(sums, added, strict=False)}
        losses = [loss / weight for loss, weight in zip(added[len(sums) :], weights, strict=True)]
        return means.pop("loss"), means, losses

    def _put_aside(self, step: int, units: Sequence[Unit], losses: Sequence[float], fault: str) -> None:
        """Write the batch where it can be looked at; stop where that is asked for, or skipping does not help."""
        file, how, decode = self.folder.path / ASIDE, self.how, self.student.chat.tokenizer.decode
        told = [
            {"record": document.record, "loss": losses[i // how.batch], "text": decode(list(document.ids))}
            for i, unit in enumerate(units)
            for document in self.objective.documents(unit)
        ]
        if self.world.first:
            with file.open("ab") as log:
                log.write(orjson.dumps({"step": step, "fault": fault, "documents": told}) + b"\n")
        if how.on_bad == "stop":
            self.save()
            raise TrainError(f"step {step}: {fault}; {file} has its batch: on_bad=skip goes on without it")
        if self.guard.in_a_row + 1 >= IN_A_ROW:
            raise TrainError(
                f"step {step}: {fault}, and {IN_A_ROW} steps in a row were like that: use a lower lr or a longer "
                f"warmup; {file} has their batches"
            )
        _log.warning("step %d is skipped: %s; %s has its batch", step, fault, file)

    def next_units(self) -> Sequence[Unit]:
        """The order of an epoch follows from the seed and its number alone."""
        epoch, place = divmod(self.step, self.per_epoch)
        order = list(range(len(self.units)))
        Random(f"{self.how.seed}/{epoch}").shuffle(order)
        per_step = self.how.batch * self.how.accumulate
        return [self.units[i] for i in order[place * per_step : (place + 1) * per_step]]

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            fill(self.weights[name], value)

    def _cuda(self) -> list[str]:
        return [self.student.device] if self.student.device.startswith("cuda") else []

    def _random(self) -> list[Tensor]:
        import torch

        return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if self._cuda() else [])]
