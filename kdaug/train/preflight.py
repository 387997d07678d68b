"""What a training is going to be, said before its first step: data, steps, memory, time, and whose terms it is under.

It is measured, not guessed: one pass over the largest batch, one over a usual one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from kdaug.train.memory import LESS, capacity, in_use, peak_of, peak_so_far
from kdaug.train.origin import terms_by
from kdaug.train.training import Training

_log = logging.getLogger(__name__)
GB = 1e9


@dataclass(frozen=True, slots=True)
class Forecast:
    """`memory`: the highest number of bytes that the process (on a GPU: its tensors) will hold, None where it is not
    measured; `capacity`: how many there are. `seconds`: from now to the end, by the speed of one batch."""

    memory: int | None
    capacity: int
    seconds: float
    tokens_per_second: float


def forecast(training: Training[Any]) -> Forecast:
    """Memory by the largest batch, so that what does not suffice is known now; time by a usual one.

    Weights, optimiser and random state are left as they were.
    """
    import torch

    device, weights = training.student.device, list(training.weights.values())
    passes = training.how.batch * training.world.size
    largest, usual = _largest(training, passes), training.next_units()[:passes]
    cuda, moments = device.startswith("cuda"), list[Any]()
    with torch.random.fork_rng([device] if cuda else []):
        if training.how.accumulate > 1:  # then gradients of the passes before are there when the largest comes
            training.gradients(usual)
        before = in_use(device)
        work = partial(training.gradients, largest, keep=True)
        peak = None
        if training.world.size == 1 or cuda:
            there = [*training.model.parameters(), *weights, *(w.grad for w in weights if w.grad is not None)]
            peak = before + peak_of(work, device, there)
            if not training.optimizer.state:
                peak += 2 * sum(w.nbytes for w in weights)  # moments to come
                if not cuda and peak < capacity(device):
                    moments = [torch.ones_like(w) for w in weights for _ in range(2)]  # written, so really there
        began = perf_counter()
        training.gradients(usual)
        seconds = perf_counter() - began
        training.optimizer.zero_grad(set_to_none=True)
        del moments
    if peak is not None and not cuda:
        peak = max(peak, peak_so_far())  # malloc keeps more than the tensors' own bytes
    speed = training.tokens(usual) / seconds
    left = training.tokens(training.units) * (training.steps - training.step) / training.per_epoch
    return Forecast(peak, capacity(device), left / speed, speed)


def tell(training: Training[Any], found: Forecast) -> None:
    """The lines of a preflight, as remarks of the log; what endangers the training as a warning."""
    for line in lines(training, found):
        _log.info("%s", line)
    if found.memory is not None and found.memory > found.capacity:
        _log.warning("memory: more than there is; %s", LESS)


def lines(training: Training[Any], found: Forecast) -> Iterator[str]:
    how, student, about = training.how, training.student, training.folder.about
    parameters = list(training.model.parameters())
    trained, everything = (
        sum(p.numel() for p in some) for some in ([p for p in parameters if p.requires_grad], parameters)
    )
    share = f"all {everything:,} weights" if trained == everything else f"{trained:,} of {everything:,} weights"
    cut = f", {len(about['truncated']):,} cut to {how.length:,}" if about["truncated"] else ""
    yield (
        f"data: {about['records']:,} records, {about['tokens']:,} tokens, "
        f"{about['trained_tokens'] / about['tokens']:.0%} of them trained{cut}"
    )
    yield f"student: {share}, computed in {'bfloat16' if student.half else 'float32'} on {student.device}"
    done = f", {training.step:,} of them done" if training.step else ""
    yield f"steps: {training.steps:,} ({training.steps / training.per_epoch:g} epochs of {training.per_epoch:,}){done}"
    if found.memory is not None:
        yield f"memory: about {found.memory / GB:.2f} of {found.capacity / GB:.1f} GB"
    yield f"time: about {_duration(found.seconds)} at {found.tokens_per_second:,.0f} tokens/s"
    for teacher in about["teachers"]:
        terms = terms_by(about, teacher)
        yield f"terms: {teacher}: {terms.licence}{f', {terms.note}' if terms.note else ''}"


def _largest(training: Training[Any], number: int) -> Sequence[Any]:
    return sorted(training.units, key=lambda unit: -training.tokens([unit]))[:number]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
