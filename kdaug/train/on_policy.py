"""On-policy distillation: the student answers for itself, and its teacher marks every token (GKD, arXiv 2306.13649)."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol, TypeAlias

from kdaug.device import quiet
from kdaug.errors import ConfigError
from kdaug.record import Messages
from kdaug.teacher import Request, Sampling, Teacher
from kdaug.train.batching import IGNORE, Document
from kdaug.train.lesson import Lesson
from kdaug.train.student import Student

if TYPE_CHECKING:
    from kdaug.train.training import Training

Plan: TypeAlias = Callable[[Sequence[int], int], list[list[int]]]  # as `Student.plan`

TOGETHER = 32  # answers that are written at a time


Row: TypeAlias = Sequence[Lesson]


class Sampler(Protocol):
    """Who writes the student's answers to n prompts: the token ids of each [n], the end of its turn included."""

    def __call__(self, student: Student, prompts: Sequence[Messages], how: Sampling) -> Sequence[Sequence[int]]: ...


@dataclass(frozen=True, slots=True)
class OnPolicy:
    """Gives each document of a step a new answer, by the student as it is, with probability `share` (λ in the paper).

    Who is picked follows from `seed` and the step alone; what is sampled from torch's random state, which checkpoints
    keep.
    """

    student: Student
    sampler: Sampler
    plan: Plan
    share: float
    how: Sampling
    length: int
    seed: int

    def begin(self, rows: Sequence[Row], training: Training[Row]) -> Sequence[Row]:
        """The next step's rows, packed anew. Of several processes each writes its part of the answers."""
        rng = Random(f"{self.seed}/{training.step + 1}/on_policy")
        lessons = [lesson for row in rows for lesson in row]
        picked = [i for i in range(len(lessons)) if rng.random() < self.share]
        if not picked:
            return rows
        writer, _ = training.whole()
        write = partial(self.sampler, writer, how=self.how)
        answers = training.world.spread([lessons[i].prompt for i in picked], write)
        for i, answer in zip(picked, answers, strict=True):
            lessons[i] = Lesson(self._answered(lessons[i].prompt, answer), lessons[i].prompt)
        plan = self.plan([len(lesson.document) for lesson in lessons], self.length)
        return [[lessons[i] for i in row] for row in plan]

    def _answered(self, prompt: Messages, answer: Sequence[int]) -> Document:
        asked = self.student.chat.ask(prompt)
        ids = [*asked, *answer][: self.length]
        return Document(array("i", ids), array("i", [*[IGNORE] * (len(asked) - 1), *ids[len(asked) :], IGNORE]))


def by_itself(student: Student, prompts: Sequence[Messages], how: Sampling) -> list[list[int]]:
    """Answers by the student in memory, through transformers."""
    import torch

    answers: list[list[int]] = []
    training = student.model.training
    student.model.eval()
    with torch.no_grad(), student.precision():
        for at in range(0, len(prompts), TOGETHER):
            answers += _generate(student, [student.chat.ask(p) for p in prompts[at : at + TOGETHER]], how)
    student.model.train(training)
    return answers


@dataclass(eq=False)
class Remade:
    """A sampler: a teacher that `make` makes of the student's weights, anew every `every` steps.

        Remade(lambda folder: kd.VLLM(str(folder)), every=50)

    For a student that an engine serves faster than transformers do. It must give token ids with its replies, as `Local`
    and `VLLM` do. `folder`: where the weights are written. With `every` above 1 the answers are of an older student
    than the one that is trained, and a resumed training begins with a new one.
    """

    make: Callable[[Path], Teacher]
    folder: Path
    every: int = 1
    _calls: int = field(default=0, init=False)
    _teacher: Teacher | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._runner = asyncio.Runner()

    def __call__(self, student: Student, prompts: Sequence[Messages], how: Sampling) -> list[list[int]]:
        if self._teacher is None or self._calls % self.every == 0:
            self.close()
            _write(student, self.folder)
            self._teacher = self.make(self.folder)
            self._runner.run(self._teacher.open(self.folder))
        self._calls += 1
        return self._runner.run(self._ask(self._teacher, prompts, how))

    def close(self) -> None:
        """Ends the teacher."""
        if self._teacher is not None:
            self._runner.run(self._teacher.aclose())
            self._teacher = None

    async def _ask(self, teacher: Teacher, prompts: Sequence[Messages], how: Sampling) -> list[list[int]]:
        slots = asyncio.Semaphore(teacher.concurrency)

        async def ask(number: int, prompt: Messages) -> list[int]:
            async with slots:
                reply = await teacher.generate(Request(prompt, how, nonce=self._calls << 20 | number))
            if reply.logprobs is None:
                raise ConfigError(f"{teacher.name} gives no token ids with its replies: sample by_itself or VLLM")
            ids: list[int] = reply.logprobs.token_ids.tolist()
            return ids

        return list(await asyncio.gather(*(ask(n, prompt) for n, prompt in enumerate(prompts))))


def _generate(student: Student, prompts: Sequence[Sequence[int]], how: Sampling) -> list[list[int]]:
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[student.chat.pad] * (longest - len(p)) + list(p) for p in prompts], device=student.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=student.device)
    warm = {"temperature": how.temperature, "top_p": how.top_p, "top_k": 0} if how.temperature else {}
    written = student.model.generate(
        ids,
        attention_mask=mask,
        do_sample=bool(warm),
        max_new_tokens=how.max_tokens,
        eos_token_id=list(student.chat.ends),
        pad_token_id=student.chat.pad,
        **warm,
    )
    return [_until_end(row, student.chat.ends) for row in written[:, longest:].tolist()]


def _until_end(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """With the token that ends the turn: what follows it is padding, which may be the same token."""
    end = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[:end])


def _write(student: Student, folder: Path) -> None:
    """The student as it is, in its own type; it goes on in float32."""
    weights = {name: value.to(student.dtype) for name, value in student.model.state_dict().items()}
    with quiet():
        student.model.save_pretrained(folder, state_dict=weights)
        student.chat.tokenizer.save_pretrained(folder)
