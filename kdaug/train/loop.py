"""The training loop: optimiser, schedule, checkpoints and what a finished model's folder holds.

Resuming is not a mode: the loop starts from the folder's checkpoint, which is at step 0 where there is none.

    models/alpaca/
      model.safetensors, config.json, tokenizer.json, …   opens with transformers
      training.json     settings, student, data, teachers, status; written first and last
      metrics.jsonl     a line a step
      loss.png          the curve
      README.md         the model card
      adapter/          with LoRA: its matrices alone, for peft or vLLM; the model above has them merged
      bad_batches.jsonl batches that were not trained on (see guard.py), if there were any
      training.lock     only while it is unfinished: one process at a time trains here
      checkpoint.pt     only while it is unfinished: weights, optimiser, random state
      best.pt           only while it is unfinished: the weights that did best on held-out records
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

import kdaug
from kdaug.errors import Interrupted, TrainError
from kdaug.train.distributed import joined
from kdaug.train.folder import ASIDE, Folder
from kdaug.train.model_card import draw_curve, write_card
from kdaug.train.preflight import forecast, tell
from kdaug.train.settings import Settings
from kdaug.train.student import Student
from kdaug.train.training import Begin, Objective, Training, Unit
from kdaug.train.training import OnStep as OnStep
from kdaug.train.training import Step as Step

_log = logging.getLogger(__name__)
FEW_STEPS = 10


def train(
    how: Settings,
    student: Student,
    units: Sequence[Unit],
    objective: Objective[Unit],
    folder: Folder,
    on_step: OnStep | None,
    held_out: Sequence[Unit] = (),
    begin: Begin[Unit] | None = None,
    beside: Any = None,
) -> None:
    """Train on units (packed rows, pairs) and leave a finished model in the folder. `begin` may change a step's units
    before it is taken; `beside` is a torch module that is trained with the student and then forgotten.

    Interrupted, it leaves a checkpoint of the last whole step; called again, it goes on from there. With `held_out`
    units the best student by these is kept.
    """
    import torch

    # Sums depend on the number of threads, by rounding: a resumed training keeps that which it began with.
    torch.set_num_threads(folder.threads or torch.get_num_threads())
    folder.threads = torch.get_num_threads()
    cuda = [student.device] if student.device.startswith("cuda") else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        world = stack.enter_context(joined(student.device))
        if world.first and not how.dry_run:
            stack.enter_context(folder.held())
        training = Training(how, student, units, objective, folder, held_out, world, begin, beside)
        training.resume()
        _advise(training)
        _begin(training)
        if how.dry_run:
            return
        with training.stop.listening(), _saving(training):
            _take_steps(training, on_step)
        kept, told = training.settle()
        if world.first:
            _finish(training, kept, told)
        world.wait()


@contextmanager
def _saving(training: Training[Any]) -> Iterator[None]:
    """What is interrupted leaves a checkpoint."""
    try:
        yield
    except KeyboardInterrupt as e:
        saved = f"step {training.step} of {training.steps} is saved, and the same command goes on from there"
        done = saved if training.save() else "the same command goes on from the last checkpoint"
        raise Interrupted(e.number if isinstance(e, Interrupted) else signal.SIGINT, done) from e


def _begin(training: Training[Any]) -> None:
    found = forecast(training)
    if training.world.first:
        tell(training, found)
        if not training.how.dry_run:
            training.folder.tell("running")


def _take_steps(training: Training[Any], on_step: OnStep | None) -> None:
    how, world = training.how, training.world
    with (training.folder.path / "metrics.jsonl" if world.first else Path(os.devnull)).open("ab") as log:
        while training.step < training.steps:
            done = training.advance()
            last = done.step == training.steps
            if training.held_out and how.eval_every and (last or done.step % how.eval_every == 0):
                held_out, more = training.judge()
                done = replace(done, held_out=held_out, more=done.more | more)
            log.write(orjson.dumps(done.to_json()) + b"\n")
            log.flush()
            if on_step is not None and world.first:
                on_step(done)
            if done.step % how.save_every == 0 and not last:
                training.save()
            if agreed := int(world.most(training.stop.signal)):  # one that comes meanwhile is agreed on a step later
                raise Interrupted(agreed)


def _advise(training: Training[Any]) -> None:
    if training.steps < FEW_STEPS and training.world.first:
        _log.warning(
            "only %s (%d an epoch): the student will hardly move; lower accumulate, batch or length",
            f"{training.steps} step{'s' * (training.steps != 1)}",
            training.per_epoch,
        )


def _finish(training: Training[Any], student: Student, settled: dict[str, Any]) -> None:
    import torch
    import transformers

    folder = training.folder
    metrics = folder.metrics()
    taken = [m for m in metrics if "skipped" not in m]
    if not taken:
        raise TrainError(f"no step could be taken, so nothing was learnt: {folder.path / ASIDE} has the batches")
    student.save(folder.path)
    draw_curve(taken, folder.path / "loss.png")
    results: dict[str, Any] = {
        "steps": training.steps,
        "loss_first": taken[0]["loss"],
        "loss_last": taken[-1]["loss"],
        "skipped": [m["step"] for m in metrics if "skipped" in m],
        **settled,
        "seconds": round(training.seconds, 1),
        "tokens_per_second": round(sum(m["tokens"] for m in metrics) / training.seconds, 1),
        "device": student.device,
        "precision": "bf16" if student.half else "fp32",
        "packed": student.packs,
        "threads": torch.get_num_threads(),
        "processes": training.world.size,
        "versions": {"kdaug": kdaug.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }
    write_card(folder.path, folder.told(results=results))
    folder.tell("finished", results=results)
    folder.clear()
