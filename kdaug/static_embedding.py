"""Static sentence embeddings: the mean of one vector a token, a hundred times as fast as a model, and coarser."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from kdaug.embedding import loaded
from kdaug.errors import ConfigError, require
from kdaug.models import Model, cache_folder

if TYPE_CHECKING:
    from model2vec import StaticModel

    from kdaug.embedding import Array

VERSION = 1  # of the distillation
DIMENSIONS = 256
BATCH = 1024  # tokens in a pass
RARE = 1e-3  # the `a` of the weights a / (a + p): Arora et al. 2017, §3
LOG = logging.getLogger("kdaug")


@dataclass(frozen=True)
class StaticEmbedder:
    """Embeds texts with a model2vec model: `folder`, or (None) one distilled from an encoder, once in some minutes.

    Distilled as by model2vec's authors (Minish Lab 2024): every token of the vocabulary goes through the encoder
    alone, and its vector is projected on the 256 main components and weighed by how rare Zipf's law has it.
    """

    encoder: Model
    folder: str | None = None

    def __post_init__(self) -> None:
        require("model2vec", "embed", "a sieve")
        if self.folder is not None and not (Path(self.folder) / "model.safetensors").is_file():
            raise ConfigError(f"{self.folder} is no folder of a model2vec model: it has no model.safetensors")

    def rows(self, texts: Sequence[str]) -> Array:
        """Unit vectors, float32, [texts, dimensions + 1]. Texts without a known token have all of it in the last one:
        they are like each other, and like no other."""
        import numpy as np

        texts = [text.encode(errors="replace").decode() for text in texts]
        made: Any = self._model.encode(texts, use_multiprocessing=False).astype(np.float32)
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        known = (lengths > 0) & np.isfinite(lengths)
        rows: Array = np.hstack((np.where(known, made / np.where(known, lengths, 1), 0), ~known)).astype(np.float32)
        return rows

    @cached_property
    def _model(self) -> StaticModel:
        from model2vec import StaticModel

        return StaticModel.from_pretrained(self.folder or _distilled(self.encoder))


@cache
def _distilled(encoder: Model) -> Path:
    """The folder of an encoder's static model, made now or before. Of several processes one makes it."""
    folder = cache_folder() / "static" / f"{encoder.name.replace('/', '--')}-v{VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            LOG.info("distilling a static model from %s into %s, once", encoder.name, folder)
            made = Path(mkdtemp(dir=folder.parent))
            _distil(encoder).save_pretrained(made)
            made.replace(folder)
    return folder


def _distil(encoder: Model) -> StaticModel:
    import numpy as np
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    model = loaded(encoder)
    words = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    words.no_truncation()
    words.no_padding()
    rows = _token_vectors(model, words.get_vocab_size())
    centred: Any = rows - rows.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    projected = centred @ axes[:, : -DIMENSIONS - 1 : -1]
    share: Any = 1 / np.arange(2, len(rows) + 2)  # a vocabulary begins with the most frequent tokens
    weights = RARE / (RARE + share / share.sum())
    vectors = (projected * weights[:, None]).astype(np.float32)
    return StaticModel(vectors, words, config={}, normalize=True, base_model_name=encoder.name)


def _token_vectors(model: Any, count: int) -> Any:
    """Each token alone, between the marks of a text's beginning and end: float32 [tokens, dimensions]."""
    import torch

    marks = model.tokenizer("")["input_ids"]
    made = []
    with torch.inference_mode():
        for tokens in torch.arange(count).split(BATCH):
            framed = [torch.full_like(tokens, mark) for mark in marks]
            framed.insert(len(marks) // 2, tokens)
            ids = torch.stack(framed, dim=1).to(model.device)
            made.append(model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"])
    return torch.cat(made).float().cpu().numpy()
