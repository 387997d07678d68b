"""The training loop: optimiser, schedule, checkpoints and what a finished model's folder holds.

Resuming is not a mode: the loop starts from the folder's checkpoint, which is at step 0 where there is none.

    models/alpaca/
      model.safetensors, config.json, tokenizer.json, …   opens with transformers
      training.json     settings, student, data, teachers, status; written first and last
      metrics.jsonl     a line a step
      loss.png          the curve
      README.md         the model card
      checkpoint.pt     only while it is unfinished: weights, optimiser, random state
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import orjson

import kdaug
from kdaug.errors import TrainError
from kdaug.train.model_card import draw_curve, write_card
from kdaug.train.settings import Settings
from kdaug.train.student import Folder, Student, replacing

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
Unit = TypeVar("Unit")
Measured = TypeVar("Measured", contravariant=True)
FEW_STEPS = 10
# Adam's moments as in InstructGPT (arXiv 2203.02155, appendix C).
BETAS = (0.9, 0.95)


class Objective(Protocol[Measured]):
    """What is minimised: the sum of `loss` over a step's units, divided by the sum of their `weight`."""

    def weight(self, unit: Measured) -> int: ...
    def tokens(self, unit: Measured) -> int: ...
    def loss(self, units: Sequence[Measured]) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss of some units, and further sums to report (divided by the same weight)."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """What `on_step` is told. `tokens` of this step, padding not counted; `more`: e.g. DPO's margin."""

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    more: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        return {name: value for name, value in plain.items() if name not in ("steps", "more")} | self.more


OnStep = Callable[[Step], object]


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
        self, how: Settings, student: Student, units: Sequence[Unit], objective: Objective[Unit], folder: Folder
    ) -> None:
        import torch

        self.how, self.student, self.units, self.objective, self.folder = how, student, units, objective, folder
        self.per_epoch = math.ceil(len(units) / (how.batch * how.accumulate))
        self.steps = self.per_epoch * how.epochs
        self.step, self.seconds, self.whole = 0, 0.0, True
        self.model = student.model.train()
        if how.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        weights = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": how.weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},  # norms and biases
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=how.lr, betas=BETAS, fused=True)
        torch.manual_seed(how.seed)
        self.random = self._random()

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        import torch

        if self.folder.checkpoint.is_file():
            saved = torch.load(self.folder.checkpoint, map_location=self.student.device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["random"][0].cpu())
            if len(saved["random"]) > 1 and torch.cuda.is_available():
                torch.cuda.set_rng_state(saved["random"][1].cpu())
            self.step, self.seconds, self.random = saved["step"], saved["seconds"], saved["random"]
        self.folder.rewind(self.step)

    def save(self) -> None:
        """The checkpoint; not in the middle of an update, when weights are of two steps."""
        import torch

        if not self.whole or not self.step:
            return
        with replacing(self.folder.checkpoint) as tmp:
            torch.save(
                {
                    "step": self.step,
                    "seconds": self.seconds,
                    "random": self.random,
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                },
                tmp,
            )

    def advance(self) -> Step:
        """One optimiser step over the next `batch * accumulate` units."""
        import torch

        began, step = perf_counter(), self.step + 1
        units = self._next_units()
        loss, more = self._gradients(units)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.how.clip or math.inf))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainError(f"step {step}: the loss is {loss}, the gradient {norm}: use a lower lr or a longer warmup")
        lr = rate(self.how, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.whole = False
        self.optimizer.step()
        self.step, self.random, self.whole = step, self._random(), True
        self.optimizer.zero_grad(set_to_none=True)
        seconds = perf_counter() - began
        self.seconds += seconds
        tokens = sum(self.objective.tokens(unit) for unit in units)
        return Step(step, self.steps, loss, lr, norm, tokens, tokens / seconds, more)

    def _gradients(self, units: Sequence[Unit]) -> tuple[float, dict[str, float]]:
        """Gradients of the mean over all the units, however they are split into forward passes."""
        total = sum(self.objective.weight(unit) for unit in units)
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for at in range(0, len(units), self.how.batch):
            loss, more = self.objective.loss(units[at : at + self.how.batch])
            (loss / total).backward()
            for name, value in {"loss": loss, **more}.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        means = {name: float(value) / total for name, value in sums.items()}
        return means.pop("loss"), means

    def _next_units(self) -> Sequence[Unit]:
        """The order of an epoch follows from the seed and its number alone."""
        epoch, place = divmod(self.step, self.per_epoch)
        order = list(range(len(self.units)))
        Random(f"{self.how.seed}/{epoch}").shuffle(order)
        per_step = self.how.batch * self.how.accumulate
        return [self.units[i] for i in order[place * per_step : (place + 1) * per_step]]

    def _random(self) -> list[Tensor]:
        import torch

        cuda = [torch.cuda.get_rng_state()] if self.student.device.startswith("cuda") else []
        return [torch.get_rng_state(), *cuda]


def train(
    how: Settings,
    student: Student,
    units: Sequence[Unit],
    objective: Objective[Unit],
    folder: Folder,
    on_step: OnStep | None,
) -> None:
    """Train on units (packed rows, pairs) and leave a finished model in the folder.

    Interrupted, it leaves a checkpoint of the last whole step; called again, it goes on from there.
    """
    import torch

    folder.tell("running")
    with torch.random.fork_rng(devices=[student.device] if student.device.startswith("cuda") else []):
        training = Training(how, student, units, objective, folder)
        training.resume()
        _advise(training)
        try:
            _take_steps(training, on_step)
        except KeyboardInterrupt:
            training.save()
            raise
        except torch.OutOfMemoryError as e:
            raise TrainError(
                f"step {training.step + 1}: out of memory on {student.device}: lower batch and raise accumulate, lower "
                "length, or use gradient_checkpointing=True"
            ) from e
    _finish(training)


def _take_steps(training: Training[Any], on_step: OnStep | None) -> None:
    with (training.folder.path / "metrics.jsonl").open("ab") as log:
        while training.step < training.steps:
            done = training.advance()
            log.write(orjson.dumps(done.to_json()) + b"\n")
            log.flush()
            if on_step is not None:
                on_step(done)
            if done.step % training.how.save_every == 0 and done.step < training.steps:
                training.save()


def _advise(training: Training[Any]) -> None:
    if training.steps < FEW_STEPS:
        _log.warning(
            "only %d steps (%d an epoch): the student will hardly move; lower accumulate, batch or length",
            training.steps,
            training.per_epoch,
        )


def _finish(training: Training[Any]) -> None:
    import torch
    import transformers

    folder, student = training.folder, training.student
    metrics = folder.metrics()
    student.save(folder.path)
    draw_curve(metrics, folder.path / "loss.png")
    results: dict[str, Any] = {
        "steps": training.steps,
        "loss_first": metrics[0]["loss"],
        "loss_last": metrics[-1]["loss"],
        "seconds": round(training.seconds, 1),
        "tokens_per_second": round(sum(m["tokens"] for m in metrics) / training.seconds, 1),
        "device": student.device,
        "precision": "bf16" if student.half else "fp32",
        "packed": student.packs,
        "threads": torch.get_num_threads(),
        "versions": {"kdaug": kdaug.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }
    write_card(folder.path, folder.told(results=results))
    folder.tell("finished", results=results)
    folder.checkpoint.unlink(missing_ok=True)
