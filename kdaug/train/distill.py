"""Knowledge distillation: the student learns its teacher's probability of every next token, not only the one it chose.

The teacher's view comes from a model beside the student (white-box: word-level distillation, arXiv 1503.02531 and
1606.07947), or from what the run that made the data has kept of it (`kdaug run … --logprobs 20`), with no teacher in
memory. With `on_policy` the student is corrected on answers of its own (GKD, arXiv 2306.13649).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, get_args

from kdaug.chat import Chat
from kdaug.device import pick_device, threads
from kdaug.errors import ConfigError, TrainError
from kdaug.record import Record
from kdaug.teacher import Sampling
from kdaug.train.batching import Document, collate, held_out_of
from kdaug.train.divergences import DIVERGENCES, Tail
from kdaug.train.features import Matching, Measure, Start
from kdaug.train.folder import Folder
from kdaug.train.foreign import ACROSS, FromForeign, Pair, pairs_of
from kdaug.train.guide import Guide, Present, alone, remember, shared_vocabulary
from kdaug.train.lesson import Lesson, lessons_of, run_of
from kdaug.train.loop import OnStep, train
from kdaug.train.losses import linear_divergence, linear_logprobs, linear_top_k_divergence
from kdaug.train.memory import enough
from kdaug.train.on_policy import OnPolicy, Plan, Sampler, by_itself
from kdaug.train.settings import Settings, described, setting
from kdaug.train.stored import Stored
from kdaug.train.student import LAST, Student, Teaching, load, locate
from kdaug.train.training import Begin, Objective, Training
from kdaug.train.vocabularies import compare_vocabularies

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
Row: TypeAlias = Sequence[Lesson]
Unit = TypeVar("Unit", Lesson, Pair)


CHOICES = (*DIVERGENCES, *ACROSS)


@dataclass(frozen=True, kw_only=True)
class Distill(Settings):
    """Train a student to give every token of the answers the probabilities that its teacher gives.

    The loss of a token is `alpha` times the divergence and 1 - `alpha` times the cross-entropy; without T², so a high
    `temperature` wants a higher lr. With `hidden` the student's states, through a learned projection, are drawn to the
    teacher's as well (arXiv 1412.6550). A unit is a row of `length` tokens, packed with whole documents.
    """

    divergence: str = setting("forward_kl", "what is minimised between teacher and student", choices=CHOICES)
    alpha: float = setting(1.0, "share of the divergence in the loss; the rest is cross-entropy", 0, 1)
    temperature: float = setting(1.0, "that softens teacher and student alike", 0.01)
    beta: float = setting(0.5, "jsd: the teacher's share in the mixture", 0, 1)  # GKD
    skew: float = setting(0.1, "skew_kl, skew_reverse_kl: the share of the other in the mixture", 0, 1)  # DistiLLM
    taid_start: float = setting(0.4, "taid: the teacher's share in the target at the first step", 0, 1)  # TAID
    mu: float = setting(0.5, "adaptive_kl: the teacher's mass that counts as its head", 0, 1)  # AKL
    tail: str = setting("bucket", "stored: what becomes of the mass outside the top k", choices=get_args(Tail))
    hidden: float = setting(0.0, "weight of the distance of both models' hidden states, added to the loss; 0: none", 0)
    hidden_layers: int = setting(0, "hidden: how many of the student's layers are matched, by depth; 0: all", 0)
    hidden_measure: str = setting("mse", "hidden: what the distance is", choices=get_args(Measure))
    hidden_projection: str = setting(
        "auto", "hidden: how the student's projection begins; auto: identity or xavier", choices=get_args(Start)
    )
    on_policy: float = setting(0.0, "share of the answers that the student writes anew itself", 0, 1)
    max_new_tokens: int = setting(128, "on_policy: tokens of an answer at most", 1)  # GKD
    sampling_temperature: float = setting(1.0, "on_policy: of the student's answers", 0)

    def fit(
        self,
        data: Any,
        *,
        student: str | Path,
        out: str | Path,
        teacher: str | Path | None = None,
        run: str | Path | None = None,
        cache: str | Path | None = None,
        sampler: Sampler = by_itself,
        on_step: OnStep | None = None,
    ) -> Path:
        """Train `student` (a name or a folder) on completion records and return `out`, the folder of the new model.

        `teacher`: a model of the same vocabulary (a name or a folder), in memory beside the student; with `cache`, a
        folder, what it says about the data is kept there, and it is loaded only where that is not there yet. Without a
        teacher, the log-probabilities that a run has kept are used: of the run that the data are of, or of `run`.
        `sampler` writes the student's own answers, where `on_policy` is above 0.

        Resuming is as in `SFT.fit`. Raises ConfigError besides for settings that do not go together, a teacher of
        another vocabulary, and records without a stored view.
        """
        self._check(teacher is None, cache is not None, sampler is not by_itself)
        device, source = pick_device(self.device), locate(student)
        chat, expert = Chat.load(source), None if teacher is None else Teaching.by(teacher)
        judged = held_out_of(data, self)
        lessons, records, encoded = lessons_of(data, chat, self.length, prompts=self.on_policy > 0, held_out=judged)
        source_run = encoded.origin.get("source", "") if run is None else run
        stored = Stored(run_of(source_run), chat) if expert is None else None
        taught = len(encoded.records)  # the lessons behind these are held out
        folder = Folder(Path(out), self, student, source, encoded, expert)
        if not folder.finished:
            with threads(), enough(device):
                pupil = load(source, chat, device, self.dtype)
                task: Task[Any]
                if stored is not None:
                    task = self._by_run(pupil, lessons, records, stored, taught)
                elif expert is not None and self.divergence in ACROSS:
                    _log.info("%s", compare_vocabularies(source, expert.folder).says)
                    task = self._by_foreign(pupil, lessons, records, expert.folder, taught)
                elif expert is not None:
                    vocabulary = shared_vocabulary(chat, source, expert.folder)
                    matching = self._matching(source, expert.folder, device)
                    task = self._by_teacher(pupil, lessons, expert.folder, vocabulary, cache, sampler, matching, taught)
                train(self, pupil, task.rows, task.objective, folder, on_step, task.held_out, task.begin, task.beside)
        return folder.path

    def _by_run(
        self, student: Student, lessons: list[Lesson], records: Iterable[Record], stored: Stored, taught: int
    ) -> Task[Lesson]:
        seen, coverage = stored.teach(records, lessons)
        rows, held_out = rows_of(seen, student.plan, self.length, taught)
        mixed = self.alpha < 1 or coverage.covered < coverage.tokens
        return Task(rows, held_out, FromRun(self, student, stored, coverage.top_k, mixed))

    def _by_teacher(
        self,
        student: Student,
        lessons: list[Lesson],
        teacher: Path,
        vocabulary: int,
        cache: str | Path | None,
        sampler: Sampler,
        matching: Matching | None,
        taught: int,
    ) -> Task[Lesson]:
        chat, device = student.chat, student.device
        loading = partial(Present.load, teacher, chat, device, self.dtype)
        documents = [lesson.document for lesson in lessons]
        kept = partial(remember, teacher=teacher, documents=documents, length=self.length, loading=loading)
        guide: Guide = loading() if cache is None else kept(Path(cache), device=device)
        plan = student.plan if guide.packs else alone
        how = Sampling(self.sampling_temperature, max_tokens=self.max_new_tokens, logprobs=1)
        own = OnPolicy(student, sampler, plan, self.on_policy, how, self.length, self.seed) if self.on_policy else None
        rows, held_out = rows_of(lessons, plan, self.length, taught)
        begin, pace = None if own is None else own.begin, None
        if self.divergence == "taid":
            begin = pace = Pace(self.taid_start, self.taken(len(rows)), begin)
        objective = FromTeacher(self, student, guide, vocabulary, pace, matching)
        return Task(rows, held_out, objective, begin, None if matching is None else matching.projection)

    def _matching(self, student: Path, teacher: Path, device: str) -> Matching | None:
        if not self.hidden:
            return None
        how: dict[str, Any] = {"measure": self.hidden_measure, "start": self.hidden_projection}
        found = Matching.between(student, teacher, count=self.hidden_layers, seed=self.seed, **how)
        found.projection.to(device)
        _log.info("hidden: layers %s", ", ".join(f"{ours} to {theirs}" for ours, theirs in found.pairs.items()))
        return found

    def _by_foreign(
        self, student: Student, lessons: list[Lesson], records: Iterable[Record], teacher: Path, taught: int
    ) -> Task[Pair]:
        objective = FromForeign.of(
            student,
            teacher,
            self.dtype,
            self.divergence,
            beta=self.beta,
            alpha=self.alpha,
            temperature=self.temperature,
        )
        pairs = pairs_of(lessons, records, student.chat, objective.guide.teacher.chat, self.length)
        plan = student.plan if objective.guide.packs else alone
        return Task(*rows_of(pairs, plan, self.length, taught), objective)

    def _check(self, teacherless: bool, cached: bool, handed: bool) -> None:
        """Raises ConfigError for settings that do not go together."""
        wrong = ""
        if teacherless and self.divergence != "forward_kl":
            wrong = f"divergence={self.divergence}: stored log-probabilities give forward_kl alone; name a teacher"
        elif teacherless and self.temperature != 1:
            wrong = f"temperature={self.temperature}: log-probabilities are stored at temperature 1; name a teacher"
        elif self.on_policy and teacherless:
            wrong = f"on_policy={self.on_policy}: a run knows nothing of what the student says; name a teacher"
        elif self.on_policy and cached:
            wrong = f"on_policy={self.on_policy}: a cache knows nothing of what the student says; leave it out"
        elif self.on_policy and self.alpha < 1:
            wrong = f"alpha={self.alpha}: cross-entropy would confirm the student in its own words; on_policy wants 1"
        elif self.on_policy and handed and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            wrong = "sampler: under torchrun the student writes its answers itself; leave it out"
        elif self.hidden and (teacherless or self.divergence in ACROSS):
            wrong = (
                f"hidden={self.hidden}: hidden states are those of a --teacher of the student's vocabulary; name one"
            )
        elif self.hidden and cached and self.hidden_layers != 1:
            wrong = "a cache has the teacher's last layer alone: give hidden_layers=1, or leave it out"
        elif self.divergence in ACROSS and (cached or self.on_policy):
            wrong = f"divergence={self.divergence}: across vocabularies there is neither a cache nor on_policy"
        elif self.divergence == "uld" and self.alpha == 1:
            wrong = "divergence=uld: it does not see which token is which; give alpha=0.6, as its authors do, or gold"
        if not wrong:
            wrong = self._idle()
        if wrong:
            raise ConfigError(f"Distill: {wrong}")

    def _idle(self) -> str:
        """What is wrong with a setting that was given, and that nothing here looks at."""
        about = described(type(self))
        for name, (used, by) in _OF.items():
            if getattr(self, name) != about[name]["default"] and not used(self):
                return f"{name}={getattr(self, name)}: only {by} has it; leave it out"
        return ""

    def between(self, t: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
        """The divergence of log-probabilities, with those of our fields that it takes; `t`: taid's, at this step."""
        chosen, ours = DIVERGENCES[self.divergence], {"beta": self.beta, "alpha": self.skew, "mu": self.mu, "t": t}
        return partial(chosen, **{name: ours[name] for name in signature(chosen).parameters if name in ours})


# Settings that one kind of distillation alone looks at: whether this is it, and what it is called.
_OF: dict[str, tuple[Callable[[Distill], Any], str]] = {
    "beta": (lambda how: how.divergence in ("jsd", "gold"), "divergence=jsd or gold"),
    "skew": (lambda how: how.divergence in ("skew_kl", "skew_reverse_kl"), "divergence=skew_kl or skew_reverse_kl"),
    "taid_start": (lambda how: how.divergence == "taid", "divergence=taid"),
    "mu": (lambda how: how.divergence == "adaptive_kl", "divergence=adaptive_kl"),
    **{
        name: (lambda how: how.hidden, "hidden above 0")
        for name in ("hidden_layers", "hidden_measure", "hidden_projection")
    },
    **{name: (lambda how: how.on_policy, "on_policy above 0") for name in ("max_new_tokens", "sampling_temperature")},
}


def rows_of(units: Sequence[Unit], plan: Plan, length: int, taught: int) -> tuple[list[list[Unit]], list[list[Unit]]]:
    """Rows of the first `taught` units, which are trained on, and of those behind them, which are held out."""
    sides = (units[:taught], units[taught:])
    plans = [plan([len(unit.document) for unit in side], length) for side in sides]
    rows, held_out = ([[side[i] for i in row] for row in rows] for side, rows in zip(sides, plans, strict=True))
    return rows, held_out


@dataclass(frozen=True, slots=True)
class Task(Generic[Unit]):
    """What is trained on, what the student is judged by between the steps, what is minimised, what becomes of a step's
    rows before it is taken, and the torch module that is trained beside the student."""

    rows: Sequence[Sequence[Unit]]
    held_out: Sequence[Sequence[Unit]]
    objective: Objective[Sequence[Unit]]
    begin: Begin[Sequence[Unit]] | None = None
    beside: Any = None


@dataclass
class Pace:
    """TAID's t at the step that is taken: a straight line from `start` to 1 at the last step (arXiv 2501.16937, §4.2).

    The adaptive part of its schedule is left out: with its authors' figures it never leads the line, and it would make
    a step depend on the losses before it. `after`: what else becomes of the step's rows.
    """

    start: float
    steps: int
    after: Begin[Row] | None = None
    t: float = 1.0

    def __call__(self, rows: Sequence[Row], training: Training[Row]) -> Sequence[Row]:
        self.t = self.start + training.step / self.steps * (1 - self.start)
        return rows if self.after is None else self.after(rows, training)


class _Tokens:
    """A loss that is averaged over the trained tokens of rows."""

    def weight(self, unit: Row) -> int:
        return sum(lesson.document.trained for lesson in unit)

    def documents(self, unit: Row) -> Sequence[Document]:
        return [lesson.document for lesson in unit]


@dataclass(frozen=True)
class FromTeacher(_Tokens):
    """The divergence over the whole vocabulary; `vocabulary`: how many tokens both models have; `pace`: taid's;
    `matching`: of hidden states, where they count."""

    how: Distill
    student: Student
    guide: Guide
    vocabulary: int
    pace: Pace | None = None
    matching: Matching | None = None

    def loss(self, units: Sequence[Row]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = collate([[lesson.document for lesson in row] for row in units], self.student.chat.pad)
        with self.student.precision():
            wanted = {} if self.matching is None else self.matching.pairs
            ours, targets, _ = self.student.layers(batch, wanted.keys())
            theirs = self.guide.layers(batch, [lesson for row in units for lesson in row], set(wanted.values()))
            states, head, heat = ours[LAST], self.student.head, self.how.temperature
            # Where the student is only judged, taid's target is the teacher itself: looks are alike whatever the step.
            t = self.pace.t if self.pace is not None and self.student.model.training else 1.0
            kind = self.how.between(t)
            apart = linear_divergence(
                states, head, theirs[LAST], self.guide.head, kind, temperature=heat, vocabulary=self.vocabulary
            ).sum()
            loss, told = apart, {}
            if self.how.alpha < 1:
                hard = -linear_logprobs(states, head, targets).sum()
                loss, told = self.how.alpha * apart + (1 - self.how.alpha) * hard, {"divergence": apart, "nll": hard}
            if self.matching is not None:
                far = self.matching.distance(ours, theirs).sum()
                loss, told = loss + self.how.hidden * far, {"divergence": apart, **told, "hidden": far}
        return loss, told


@dataclass(frozen=True)
class FromRun(_Tokens):
    """Forward KL to what a run has kept of the teacher; where it has kept nothing, cross-entropy alone. `top_k`:
    how many alternatives are there of every token; `mixed`: whether cross-entropy counts anywhere."""

    how: Distill
    student: Student
    stored: Stored
    top_k: int
    mixed: bool = True

    def loss(self, units: Sequence[Row]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = collate([[lesson.document for lesson in row] for row in units], self.student.chat.pad)
        tops = self.stored.tops([lesson for row in units for lesson in row], self.top_k).to(self.student.device)
        if tops.known.any() and (highest := int(tops.ids.max())) >= len(self.student.head):
            raise TrainError(f"the run's log-probabilities name token {highest}: the student has no such token")
        with self.student.precision():
            states, targets, _ = self.student.hidden(batch)
            head, known = self.student.head, tops.known
            apart = linear_top_k_divergence(
                states[known],
                head,
                tops.ids,
                tops.logprobs,
                vocabulary=len(head),
                residual=tops.residual,
                tail=self.how.tail,  # type: ignore[arg-type]  # held against its choices
            ).sum()
            hard = -linear_logprobs(states[~known], head, targets[~known]).sum()
            if self.how.alpha < 1:
                also = -linear_logprobs(states[known], head, targets[known]).sum()
                hard, apart = hard + (1 - self.how.alpha) * also, self.how.alpha * apart
        return apart + hard, {"divergence": apart, "nll": hard} if self.mixed else {}
