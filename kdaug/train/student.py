"""The student: a model in float32 with its tokenizer, on the device and in the precision that suit it."""

from __future__ import annotations

import hashlib
import logging
import shutil
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from kdaug.chat import Chat
from kdaug.device import computes_in_half, quiet
from kdaug.errors import ConfigError, TrainError, shorten
from kdaug.models import check_speaks
from kdaug.train import attention
from kdaug.train.batching import IGNORE, Batch, Document, collate, pack
from kdaug.train.distributed import whole
from kdaug.train.losses import linear_logprobs, widen
from kdaug.train.settings import DTYPES

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
LAST = -1  # a model's last layer, behind its norm: what its head is applied to
TOLERANCE = 1e-3  # of log-probabilities in float32: packed or alone, by our head or the model's own
ROUGHLY = 0.5  # in half precision, packed or alone: far above its noise, and below what another document would change


@dataclass(frozen=True, slots=True, eq=False)
class Student:
    """A causal language model that is trained or judged.

    `half`: whether it computes in bfloat16 (its weights are float32). `packs`: whether documents can share a row;
    `by_document`: whether its attention takes them one by one, so that any number can, at no cost.
    """

    model: Any  # a transformers model, whose types are not followed
    chat: Chat
    device: str
    half: bool
    dtype: Any  # the type that its weights came in, and are saved in
    packs: bool = False
    by_document: bool = False

    @property
    def head(self) -> Tensor:
        """The weights from hidden states to logits [V, d]."""
        return whole(self.model.get_output_embeddings().weight)

    @contextmanager
    def precision(self) -> Iterator[None]:
        import torch

        with torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16, enabled=self.half):
            yield

    def hidden(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The N positions that predict a trained token: hidden states [N, d], targets [N], owners [N]."""
        states, targets, owner = self.layers(batch)
        return states[LAST], targets, owner

    def layers(self, batch: Batch, which: Collection[int] = ()) -> tuple[dict[int, Tensor], Tensor, Tensor]:
        """As `hidden`, with the states of several layers: the LAST, and `which` (0 is the embeddings).

        No attention mask is given: then the model keeps apart documents whose positions restart, while a mask of ones
        would let them see each other. `packs` was tried out when the model was loaded.
        """
        batch = (batch.in_one_row() if self.by_document else batch).to(self.device)
        wanted = batch.targets != IGNORE
        how: dict[str, Any] = {"use_cache": False}
        if self.by_document:
            # A mask of four dimensions is passed on as it is, and this attention looks at none.
            how |= {"documents": batch.sizes[0], "attention_mask": batch.ids.new_empty(1, 1, 1, 1)}
        base = self.model.base_model
        with _noted(base, which) as seen:
            last = base(input_ids=batch.ids, position_ids=batch.positions, **how).last_hidden_state
        states = {LAST: last} | {n: last if n == len(base.layers) else seen[n] for n in which}
        return {n: s[wanted] for n, s in states.items()}, batch.targets[wanted], batch.owner[wanted]

    def logprobs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of each trained token: its log-probability [N], and which document it belongs to [N]."""
        with self.precision():
            states, targets, owner = self.hidden(batch)
            return linear_logprobs(states, self.head, targets), owner

    def plan(self, sizes: Sequence[int], length: int) -> list[list[int]]:
        """Which documents share a row: packed to `length` tokens where this model keeps them apart, else one a row."""
        return pack(sizes, length) if self.packs else [[i] for i in range(len(sizes))]

    def sums(self, documents: Sequence[Document], length: int) -> Tensor:
        """Of each document: the summed log-probability of its trained tokens [n]."""
        import torch

        plan = self.plan([len(d) for d in documents], length)
        logprobs, owner = self.logprobs(collate([[documents[i] for i in row] for row in plan], self.chat.pad))
        place = torch.tensor([i for row in plan for i in row], device=logprobs.device)
        return torch.zeros(len(documents), device=logprobs.device).index_add(0, place[owner], logprobs)

    def save(self, folder: Path) -> None:
        """The model in the student's own type, and its tokenizer: complete under a temporary name, then moved."""
        tmp = folder / "saving.tmp"
        shutil.rmtree(tmp, ignore_errors=True)
        with quiet():
            self.model.to(self.dtype).save_pretrained(tmp)
            self.chat.tokenizer.save_pretrained(tmp)
        readable(tmp)
        for file in sorted(tmp.iterdir()):
            file.replace(folder / file.name)
        tmp.rmdir()


def readable(folder: Path) -> None:
    """Its files for whom they usually are for: safetensors' own would be for their owner alone."""
    usual = (folder / "config.json").stat().st_mode
    for file in folder.iterdir():
        file.chmod(usual)


@contextmanager
def _noted(base: Any, which: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """What some layers make of a batch, by their number: 0 is what the first is given. Our own hooks, as those of
    transformers note nothing of a model that is sharded."""
    seen: dict[int, Tensor] = {}

    def before(module: Any, given: Any) -> None:
        seen[0] = given[0]

    def after(number: int, module: Any, given: Any, made: Any) -> None:
        seen[number] = made[0] if isinstance(made, tuple) else made

    layers: Any = getattr(base, "layers", ())
    if which and not layers:
        raise ConfigError(
            f"{type(base).__name__} has no list of layers whose states could be matched: leave out hidden"
        )
    handles = [layers[n - 1].register_forward_hook(partial(after, n)) for n in which if n]
    if 0 in which:
        handles.append(layers[0].register_forward_pre_hook(before))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def locate(name: str | Path) -> Path:
    """The folder of a model: by its folder, a GGUF file, or its id on the Hub (loaded into the Hub's cache).

    Raises ConfigError where there is no such model.
    """
    from kdaug.models import find_model

    found = find_model(str(name))
    return _download(found.path) if found.where == "hub" else Path(found.path)


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        raise ConfigError(f"no folder {repository!r} here, and it cannot be had from the Hub: {shorten(str(e))}") from e


@contextmanager
def loading(model: str | Path) -> Iterator[None]:
    """For transformers to load a model in. Raises ConfigError for one that is torn, or of no kind that they know."""
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as e:
        raise ConfigError(f"{model} cannot be loaded: {shorten(str(e), 300)}") from e


def precision_of(folder: Path, device: str, dtype: str) -> tuple[bool, Any]:
    """Whether to compute in bfloat16, and the type that the model's weights came in. Raises ConfigError."""
    import torch
    from transformers import AutoConfig

    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r}: give one of {', '.join(DTYPES)}")
    half = dtype == "bfloat16" or (dtype == "auto" and computes_in_half(device))
    return half, AutoConfig.from_pretrained(folder).dtype or torch.float32


def load(folder: Path, chat: Chat, device: str, dtype: str = "auto") -> Student:
    """The model, its weights in float32; it computes in `dtype` (see Settings).

    Raises ConfigError for another dtype, TrainError for a model whose logits are not just those of a linear head.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_speaks(folder)
    half, own = precision_of(folder, device, dtype)
    with loading(folder):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    return packed(Student(model, chat, device, half, own), _keeps_apart)


def packed(student: Student, same: Callable[[Student], bool]) -> Student:
    """With documents that share a row, where `same` says that the model computes them then as if each were alone: with
    attention by document, else with its own, else not at all."""
    before = student.model.config._attn_implementation
    try:
        attention.use(student.model)
        tried = replace(student, packs=True, by_document=True)
        if same(tried):
            return tried
    except RuntimeError as e:  # NotImplementedError, or that of a kernel which this GPU has not
        _log.info("attention by document is not for this model here: %s", shorten(str(e)))
    student.model.set_attn_implementation(before)
    tried = replace(student, packs=True)
    return tried if same(tried) else student


def _keeps_apart(student: Student) -> bool:
    """Whether two documents in one row are computed as if each were alone: tried out in float32, and roughly in the
    precision that it is trained in.

    Raises TrainError where a document alone has other log-probabilities than by the model's own forward pass.
    """
    import torch

    exact, random = replace(student, half=False), Random(0)
    size = student.model.get_input_embeddings().weight.shape[0]
    texts = [array("i", [random.randrange(size) for _ in range(n)]) for n in (9, 14)]
    tried = [Document(ids, ids[1:] + array("i", [IGNORE])) for ids in texts]
    student.model.eval()
    with torch.no_grad():
        alone, together = _alone_and_together(exact, tried)
        roughly = _alone_and_together(student, tried) if student.half else (alone, together)
        own = []
        for d in tried:
            ids = torch.tensor([d.ids.tolist()], device=student.device)
            logits = widen(student.model(input_ids=ids, use_cache=False).logits[0, :-1])
            own.append(logits.log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1))
    if (alone - torch.cat(own)).abs().max() > TOLERANCE:
        raise TrainError(f"{student.chat.name} does more to its logits than a linear head, so kdaug cannot train it")
    far, roughly_far = ((one - other).abs().max() for one, other in ((alone, together), roughly))
    return bool(far <= TOLERANCE and roughly_far <= ROUGHLY)


def _alone_and_together(student: Student, documents: Sequence[Document]) -> tuple[Tensor, Tensor]:
    """The log-probabilities of documents by one row for each, and by one row for all."""
    import torch

    rows = [[[document] for document in documents], [list(documents)]]
    alone, together = ([student.logprobs(collate([row], student.chat.pad))[0] for row in some] for some in rows)
    return torch.cat(alone), torch.cat(together)


def digest(folder: Path) -> str:
    """Which model this is: names and sizes of its files, and 64 samples of each (the whole of small ones). How it came
    to be (training.json has times and places) is no part of it."""
    body = hashlib.blake2b(digest_size=8)
    wanted = (".json", ".jinja", ".safetensors", ".bin", ".model")
    for file in sorted(f for f in folder.iterdir() if f.suffix in wanted and f.name != "training.json" and f.is_file()):
        size = file.stat().st_size
        body.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as f:
            for at in range(0, size, max(1 << 16, size // 64)):
                f.seek(at)
                body.update(f.read(1 << 16))
    return body.hexdigest()


@dataclass(frozen=True, slots=True)
class Teaching:
    """A white-box teacher: the name by which its terms are known, its folder, and the licence that this states."""

    name: str
    folder: Path
    licence: str | None = None

    @classmethod
    def by(cls, model: str | Path) -> Teaching:
        """Raises ConfigError where there is no such model."""
        from kdaug.models import locate_model

        found = locate_model(str(model))
        return cls(f"local:{found.name}", locate(model), found.licence)
