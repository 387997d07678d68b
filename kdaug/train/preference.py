"""Learning from preferences, by the name of the loss: pairs (DPO and its family), answers labelled good or bad (KTO),
ranked lists (RRHF, PRO).

`loss` picks what a unit is, and `preference_losses` and `ranking_losses` hold the formulas with their sources.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from kdaug.chat import Chat
from kdaug.device import pick_device, threads
from kdaug.errors import ConfigError
from kdaug.record import Record
from kdaug.train.batching import Encoded, Trainable, encode, encode_held_out
from kdaug.train.folder import Folder
from kdaug.train.loop import OnStep, train
from kdaug.train.memory import enough
from kdaug.train.pairs import Pair, PairObjective
from kdaug.train.preference_losses import F_DIVERGENCES, PREFERENCE_LOSSES, kto, kto_weights
from kdaug.train.ranked import RANKING_LOSSES, Lists, RankedObjective, rankings
from kdaug.train.reference import forget, reference_logprobs
from kdaug.train.settings import Settings, setting
from kdaug.train.student import Student, load, locate
from kdaug.train.training import Objective
from kdaug.train.unpaired import Judged, JudgedObjective, mismatched

_log = logging.getLogger(__name__)
LOSSES = (*PREFERENCE_LOSSES, "kto", *RANKING_LOSSES)
SCORED = ("soft_dpo",)  # of the losses of pairs, those that learn from a score of the record
LEARNING_RATE = 5e-7  # Zephyr and DEITA, for DPO
# SimPO: Llama 3 8B base. ORPO, RRHF: their papers; both train the better answer as well.
LEARNING_RATES = {"simpo": 6e-7, "orpo": 8e-6, "rrhf": 2e-5}
# Fields that are parameters of some losses; what is not given has that loss's own default.
PARAMETERS = (
    *("beta", "label_smoothing", "gamma_over_beta", "alpha", "divergence", "length_normalise"),
    *("desirable_weight", "undesirable_weight", "sft_weight"),
)


@dataclass(frozen=True, kw_only=True)
class Preference(Settings):
    """Train a student to prefer what was preferred, by any of the losses named in `LOSSES`.

    A unit is a pair (preference records), a labelled answer (`kto`, unpaired records) or a ranked list (`rrhf`, `pro`:
    the completion records of one prompt, by their `score`); those of a forward pass are packed into rows of `length`
    tokens. The reference, where a loss has one, is the student as it was: its log-probabilities are computed once. A
    parameter that is None, or an `lr` of 0, is what the loss's paper has. Raises ConfigError for a parameter that the
    loss does not have.
    """

    loss: str = setting("dpo", "what is minimised", choices=LOSSES)
    beta: float | None = setting(None, "how dearly it pays for leaving the reference; orpo: its lambda", 0)
    label_smoothing: float | None = setting(None, "dpo, aot, exo and others: how likely a label is wrong", 0, 0.5)
    gamma_over_beta: float | None = setting(None, "simpo: the margin, in parts of beta", 0)
    alpha: float | None = setting(None, "cpo: weight of the chosen answer's NLL; rrhf: power of length; f_dpo: order")
    divergence: str | None = setting(None, "f_dpo: what holds it to the reference", choices=F_DIVERGENCES)
    length_normalise: bool | None = setting(None, "ipo: means over tokens, not sums")
    desirable_weight: float | None = setting(None, "kto: of good answers; neither given: both kinds weigh the same", 0)
    undesirable_weight: float | None = setting(None, "kto: of bad answers", 0)
    sft_weight: float | None = setting(None, "rrhf, pro: of the best answer's NLL", 0)
    score: str = setting("", "rrhf, pro: which score ranks; soft_dpo: which one is the preference's probability")
    epochs: int = 1
    lr: float = setting(0.0, "the highest learning rate; 0: as the loss's paper", 0)
    batch: int = 2
    accumulate: int = 16  # 32 pairs a step: Zephyr

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := self._given.keys() - self._defaults.keys():
            raise ConfigError(f"{self.loss} has no {', '.join(unknown)}: it has {', '.join(self._defaults)}")
        if self.score and self.loss not in (*SCORED, *RANKING_LOSSES):
            raise ConfigError(f"{self.loss} has no score: {', '.join((*SCORED, *RANKING_LOSSES))} learn from one")
        if self.loss in PREFERENCE_LOSSES:
            PREFERENCE_LOSSES[self.loss].bind(**self._given)

    @property
    def kind(self) -> Trainable:
        """The kind of records that it learns from."""
        return "unpaired" if self.loss == "kto" else "preference" if self.loss in PREFERENCE_LOSSES else "completion"

    def fit(self, data: Any, *, student: str | Path, out: str | Path, on_step: OnStep | None = None) -> Path:
        """Train `student` (a name or a folder) on records of the loss's kind; return `out`, the new model's folder.

        Steps report `margin` (by how much the better answer is liked more, in nats), `accuracy` (how often it is) and,
        but for lists, the implicit rewards `chosen` and `rejected`. Resuming and errors are as in `SFT.fit`.
        """
        device, source = pick_device(self.device), locate(student)
        chat = Chat.load(source)
        encoded = self.encoded(data, chat)
        judged = encode_held_out(data, chat, self, beside=self._beside)
        how = self._settled(encoded)
        folder = Folder(Path(out), how, student, source, encoded)
        if not folder.finished:
            with threads(), enough(device):
                pupil = load(source, chat, device, self.dtype)
                prepare = _PREPARE[self.kind]
                units, objective = prepare(how, pupil, encoded, folder)
                held_out = prepare(how, pupil, judged, folder)[0] if judged else ()
                train(how, pupil, units, objective, folder, on_step, held_out)
                forget(folder)
        return folder.path

    def encoded(self, data: Any, chat: Chat) -> Encoded:
        """As in Settings; what makes a poor training of its kind is warned of."""
        encoded = encode(data, self.kind, chat, self.length, beside=self._beside)
        if self.loss in RANKING_LOSSES:
            self.lists(encoded)  # is there something to rank?
        if self.loss == "kto":
            if len(labels := set(encoded.beside)) == 1:
                kind, other = ("good", "bad") if True in labels else ("bad", "good")
                _log.warning(
                    "all %d answers are %s ones: kto learns from %s ones too", len(encoded.beside), kind, other
                )
            if self.batch == 1:
                _log.warning("kto with batch=1 takes z0 over one answer: raise batch (and lower accumulate)")
        return encoded

    def lists(self, data: Encoded) -> Lists:
        """For rrhf and pro, the records by their prompt. Raises ConfigError where none can be ranked."""
        answers = [answer for (answer,) in data.documents]
        prompts, scores = [b[:2] for b in data.beside], [b[2] for b in data.beside]
        return rankings(answers, prompts, scores, ties=self.loss != "pro")

    @property
    def _given(self) -> dict[str, Any]:
        """The loss's parameters that are not left to it."""
        values = {name: getattr(self, name) for name in PARAMETERS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def _defaults(self) -> Mapping[str, Any]:
        """The loss's parameters as its paper has them."""
        if self.loss in PREFERENCE_LOSSES:
            return PREFERENCE_LOSSES[self.loss].parameters
        function = kto if self.loss == "kto" else RANKING_LOSSES[self.loss]
        found = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in found if p.name in PARAMETERS}

    def _settled(self, data: Encoded) -> Preference:
        """With `lr` and each parameter of the loss as they will be."""
        own = {name: value for name, value in self._defaults.items() if name in PARAMETERS}
        if self.loss == "kto" and self.desirable_weight is None and self.undesirable_weight is None:
            kinds = Counter(data.beside)
            own["desirable_weight"], own["undesirable_weight"] = kto_weights(kinds[True], kinds[False])
        return replace(self, lr=self.lr or LEARNING_RATES.get(self.loss, LEARNING_RATE), **(own | self._given))

    def _beside(self, record: Record) -> Any:
        """What the loss needs of a record besides its tokens."""
        if self.loss == "kto":
            return record.label
        if self.loss in SCORED:
            return probability(record, self._scored_by(record))
        if self.loss in RANKING_LOSSES:
            return record.prompt, str(record.tools), record.scores[self._scored_by(record)]
        return None

    def _scored_by(self, record: Record) -> str:
        names = [self.score] if self.score else list(record.scores)
        if len(names) != 1 or names[0] not in record.scores:
            raise without(record, self.score)
        return names[0]


def probability(record: Record, score: str) -> float:
    """A score that is one. Raises ConfigError where it is not."""
    if not 0 <= (value := record.scores[score]) <= 1:
        raise ConfigError(f"record {record.id}: its score {score!r} is {value:g}: a probability is 0 to 1")
    return value


def without(record: Record, score: str) -> ConfigError:
    """What to raise for a record that has not the score that is wanted; "": any one."""
    if not record.scores:
        return ConfigError(
            f'record {record.id} has no scores: a gate that judges gives them, or in a file a field such as "scores": '
            '{"quality": 4.5}'
        )
    wanted = f"no score {score!r}" if score else "several scores"
    return ConfigError(f"record {record.id} has {wanted}: say which is meant ({', '.join(record.scores)})")


def _pairs(how: Preference, student: Student, data: Encoded, folder: Folder) -> tuple[list[Pair], PairObjective]:
    loss = PREFERENCE_LOSSES[how.loss]
    references: Sequence[tuple[float, float] | None] = [None] * len(data.documents)
    if loss.needs_reference:
        scores = reference_logprobs(student, list(chain.from_iterable(data.documents)), folder, how.length)
        references = list(zip(scores[::2], scores[1::2], strict=True))
    sides = zip(data.documents, references, data.beside, strict=True)
    pairs = [Pair(chosen, rejected, known, probable) for (chosen, rejected), known, probable in sides]
    beta = float(how._given["beta"])
    return pairs, PairObjective(student, how.length, loss, loss.bind(**how._given), beta)


def _answers(how: Preference, student: Student, data: Encoded, folder: Folder) -> tuple[list[Judged], JudgedObjective]:
    answers = [answer for (answer,) in data.documents]
    others = mismatched(answers, how.seed, how.length)
    asked = answers + [other for other in others if other is not None]
    scores = iter(reference_logprobs(student, asked, folder, how.length))
    own = [next(scores) for _ in answers]
    theirs = [0.0 if other is None else next(scores) for other in others]
    units = [Judged(*fields) for fields in zip(answers, data.beside, own, others, theirs, strict=True)]
    return units, JudgedObjective(student, how.length, partial(kto, **how._given), how._given["beta"])


def _lists(how: Preference, student: Student, data: Encoded, folder: Folder) -> tuple[list[Any], RankedObjective]:
    lists = how.lists(data)
    if lists.alone or lists.tied:
        _log.warning("%s", lists)
    return lists.units, RankedObjective(student, how.length, partial(RANKING_LOSSES[how.loss], **how._given))


_Prepare = Callable[[Preference, Student, Encoded, Folder], tuple[Sequence[Any], Objective[Any]]]
_PREPARE: Mapping[str, _Prepare] = {"preference": _pairs, "unpaired": _answers, "completion": _lists}
DPO = Preference  # whose loss it is unless told otherwise
