"""A reward model: a score for an answer, learnt from pairs of which one answer was preferred (Bradley-Terry).

It is the student with one output in place of its vocabulary, read at the last token of a conversation: what
transformers loads as AutoModelForSequenceClassification, and kdaug's gate `reward` scores with.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaug.chat import Chat
from kdaug.device import pick_device, threads
from kdaug.errors import BadRequest, ConfigError, TrainError
from kdaug.record import Messages, Record
from kdaug.train.batching import IGNORE, Document, Encoded, Trainable, collate, encode, encode_held_out
from kdaug.train.folder import Folder
from kdaug.train.loop import OnStep, train
from kdaug.train.memory import enough
from kdaug.train.preference import probability, without
from kdaug.train.reward_losses import accuracy, bradley_terry, soft_bradley_terry
from kdaug.train.settings import Settings, setting
from kdaug.train.student import TOLERANCE, Student, loading, locate, packed, precision_of

if TYPE_CHECKING:
    from torch import Tensor

HERE = 0  # the one target of a document: not a token, but the place where its score is read


@dataclass(frozen=True, kw_only=True)
class RewardModel(Settings):
    """Train a model to give the preferred answer the higher score: -log σ(r_c - r_r), averaged over pairs.

    A unit is a pair. What is longer than `length` tokens is left out, for its end is where the score is read. With
    `margin` the better answer must win by a score of its record, with `soft` a score is the probability that it is the
    better one.
    """

    centring: float = setting(0.0, "holds scores around 0: weight of the square of a pair's sum", 0)
    margin: str = setting("", "which score says by how much the better answer must win")
    soft: str = setting("", "which score is the probability that the chosen answer is the better one")
    epochs: int = 1  # InstructGPT: more overfits
    lr: float = 1e-5  # Llama 2 (arXiv 2307.09288, §3.2.2)
    batch: int = 2
    accumulate: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.soft and (self.margin or self.centring):
            raise ConfigError("RewardModel: soft labels know no margin and no centring: leave one of them out")

    def fit(self, data: Any, *, student: str | Path, out: str | Path, on_step: OnStep | None = None) -> Path:
        """Train `student` (a name or a folder) on preference records; return `out`, the folder of the reward model.

        Steps report `accuracy` (a tie counts half), `margin` (r_c - r_r) and the mean rewards `chosen` and `rejected`;
        with `eval_every` the same of held-out pairs.
        Resuming and errors are as in `SFT.fit`.
        """
        device, source = pick_device(self.device), locate(student)
        chat = Chat.load(source)
        encoded = self.encoded(data, chat)
        judged = encode_held_out(data, chat, self, documents=_whole, beside=self._beside)
        folder = Folder(Path(out), self, student, source, encoded)
        if not folder.finished:
            with threads(), enough(device):
                model = load_scorer(source, chat, device, self.dtype, self.seed)
                _set_pad(model, {d.ids[-1] for pair in encoded.documents for d in pair})
                objective = BradleyTerry(model, self.length, self.centring, bool(self.soft))
                held_out = _units(judged) if judged else ()
                train(self, model, _units(encoded), objective, folder, on_step, held_out)
        return folder.path

    @property
    def kind(self) -> Trainable:
        return "preference"

    def encoded(self, data: Any, chat: Chat) -> Encoded:
        return encode(data, self.kind, chat, self.length, documents=_whole, beside=self._beside)

    def _beside(self, record: Record) -> float:
        name = self.soft or self.margin
        if not name:
            return 0.0
        if name not in record.scores:
            raise without(record, name)
        if self.soft:
            return probability(record, name)
        if not record.scores[name] >= 0:
            raise ConfigError(
                f"record {record.id}: its score {name!r} is {record.scores[name]:g}: a margin is 0 or more, by which "
                "the chosen answer must win"
            )
        return record.scores[name]


@dataclass(frozen=True, slots=True)
class Scored:
    """Two answers to one prompt; `label` is the margin by which the chosen one must win, or how probable it is the
    better one."""

    chosen: Document
    rejected: Document
    label: float


def _units(data: Encoded) -> list[Scored]:
    sides = zip(data.documents, data.beside, strict=True)
    return [Scored(chosen, rejected, label) for (chosen, rejected), label in sides]


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """The reward model's loss, averaged over pairs; `soft`: with labels that are probabilities."""

    model: Student
    length: int
    centring: float
    soft: bool

    def weight(self, unit: Scored) -> int:
        return 1

    def documents(self, unit: Scored) -> Sequence[Document]:
        return unit.chosen, unit.rejected

    def loss(self, units: Sequence[Scored]) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        documents = [d for unit in units for d in (unit.chosen, unit.rejected)]
        chosen, rejected = scores(self.model, documents, self.length).view(-1, 2).T
        labels = torch.tensor([unit.label for unit in units], device=chosen.device)
        if self.soft:
            loss = soft_bradley_terry(chosen, rejected, labels)
        else:
            loss = bradley_terry(chosen, rejected, margin=labels, centring=self.centring)
        told = {"accuracy": accuracy(chosen, rejected), "margin": chosen - rejected}
        return loss.sum(), {name: each.sum() for name, each in {**told, "chosen": chosen, "rejected": rejected}.items()}


def scores(model: Student, documents: Sequence[Document], length: int) -> Tensor:
    """The reward of each document [n], in float32."""
    import torch

    plan = model.plan([len(d) for d in documents], length)
    with model.precision():
        states, _, _ = model.hidden(collate([[documents[i] for i in row] for row in plan], model.chat.pad))
        rewards: Tensor = model.model.score(states)
    place = torch.tensor([i for row in plan for i in row], device=rewards.device)
    return rewards.float().squeeze(1)[place.argsort()]


def load_scorer(folder: Path, chat: Chat, device: str, dtype: str, seed: int) -> Student:
    """The model with one output, its weights in float32; the output is new, by the seed, where the folder has none.

    Raises ConfigError for a model that cannot be given one.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    half, own = precision_of(folder, device, dtype)
    with torch.random.fork_rng(devices=[]), loading(folder):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    if not hasattr(model, "score"):
        raise ConfigError(f"{chat.name} ({model.config.model_type}) is no decoder: its score is not of the last token")
    scorer = Student(model.to(device), chat, device, half, own)
    alone = _rewards(scorer)
    return packed(scorer, lambda tried: bool((_rewards(tried) - alone).abs().max() <= TOLERANCE))


def _rewards(model: Student) -> Tensor:
    """What it gives, in float32, to two documents, which share a row where it packs."""
    import torch

    texts = [list(range(5, 14)), list(range(20, 34))]
    tried = [Document(array("i", ids), array("i", [IGNORE] * (len(ids) - 1) + [HERE])) for ids in texts]
    model.model.eval()
    with torch.no_grad():
        return scores(replace(model, half=False), tried, 64)


def _whole(
    chat: Chat, records: Sequence[Record], answers: Sequence[Messages], length: int
) -> list[tuple[Document, bool]]:
    """Each conversation to its very end, as whoever scores it will write it; one that is cut has nowhere to read."""
    made = []
    for record, answer in zip(records, answers, strict=True):
        try:
            text = chat.render(record.prompt + answer, tools=record.tools)
        except BadRequest as e:
            raise TrainError(f"record {record.id}: {e}") from e
        ids = array("i", chat.tokenizer(text, add_special_tokens=False)["input_ids"])
        cut = len(ids) > length
        places = array("i", [IGNORE] * (len(ids) - 1) + [IGNORE if cut else HERE])
        made.append((Document(ids[:length], places[:length], record.id), cut))
    return made


def _set_pad(model: Student, last: Collection[int]) -> None:
    """A padding token that ends no conversation: transformers reads the score at the last token that is another."""
    tokenizer = model.chat.tokenizer
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    wanted = [tokenizer.pad_token_id, tokenizer.unk_token_id, *special]
    pad = next((token for token in wanted if token is not None and token not in last), None)
    if pad is None:
        raise ConfigError(
            f"{model.chat.name}: every special token ends a conversation, so none can be told from padding: add a "
            "pad_token to its tokenizer"
        )
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    model.model.config.get_text_config().pad_token_id = model.model.config.pad_token_id = pad
