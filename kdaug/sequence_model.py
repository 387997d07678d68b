"""A model whose head classifies texts, or gives them a reward: any such checkpoint of transformers, in batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from kdaug.batcher import Batcher
from kdaug.device import pick_device, quiet, threads
from kdaug.errors import ConfigError, shorten
from kdaug.models import find_model
from kdaug.record import Messages, text_of

BATCH = 16
# Of a score: what the company in a batch does to the last bits of a float32 is no difference between records.
DIGITS = 4
_one_at_a_time = threading.Lock()


class Encoded(NamedTuple):
    """A text, or a pair of them, as tokens; `types` say of which of the two each is, for models that ask."""

    ids: list[int]
    types: list[int]


@dataclass(eq=False)
class SequenceModel:
    """A sequence-classification checkpoint: a folder or a Hub id. It is loaded when it is first asked."""

    name: str
    device: str = "auto"
    _batcher: Batcher[Encoded, list[float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._batcher = Batcher(self._run, BATCH, order=lambda text: len(text.ids))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """One an output, in order. Raises ConfigError where there is no such model, or it has no such head."""
        config = self._config
        if not any("SequenceClassification" in kind for kind in config.architectures or ()):
            kinds = ", ".join(config.architectures or ("none",))
            raise ConfigError(f"{self.name} is no sequence-classification model: its architecture is {kinds}")
        return tuple(str(config.id2label[i]) for i in range(config.num_labels))

    @property
    def several_at_once(self) -> bool:
        """Whether a text may have several labels: then each has a probability of its own."""
        return bool(self._config.problem_type == "multi_label_classification")

    async def __call__(self, prompt: Messages, answer: Messages | None) -> list[float] | None:
        """The outputs (logits) for an answer to its prompt, or for a lone text; None for more than the model can see.

        In the model's own chat template where it has one, else as a pair of texts.
        """
        text = await asyncio.to_thread(self._encode, prompt, answer)
        return None if len(text.ids) > self._context else await self._batcher(text)

    def _encode(self, prompt: Messages, answer: Messages | None) -> Encoded:
        tokenizer = self._tokenizer
        if answer is not None and tokenizer.chat_template:
            turns = [m.to_json() for m in (*prompt, *answer)]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            told = tokenizer(text, add_special_tokens=False)
        else:
            texts = (text_of(prompt),) if answer is None else (text_of(prompt), text_of(answer))
            told = tokenizer(*texts)
        return Encoded(told["input_ids"], told.get("token_type_ids", []))

    async def _run(self, rows: list[Encoded]) -> Sequence[list[float]]:
        return await asyncio.to_thread(self._outputs, rows)

    def _outputs(self, rows: list[Encoded]) -> list[list[float]]:
        import torch

        with _one_at_a_time, threads(), torch.inference_mode():
            # Padded by hand: a decoder's head looks at the last token that is no padding, wherever that stands.
            width = max(len(row.ids) for row in rows)

            def padded(values: Sequence[list[int]], pad: int) -> Any:
                whole = [row + [pad] * (width - len(row)) for row in values]
                return torch.tensor(whole, device=self._model.device)

            given = {
                "input_ids": padded([row.ids for row in rows], self._pad),
                "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
            }
            if rows[0].types:
                given["token_type_ids"] = padded([row.types for row in rows], 0)
            outputs: list[list[float]] = self._model(**given).logits.float().tolist()
            return outputs

    @cached_property
    def _path(self) -> str:
        return find_model(self.name).path

    @cached_property
    def _config(self) -> Any:  # of transformers, whose types are not followed
        from transformers import AutoConfig

        return self._loaded(AutoConfig)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return self._loaded(AutoTokenizer)

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        model = self._loaded(AutoModelForSequenceClassification, dtype="float32")
        model.config.pad_token_id = self._pad
        return model.to(pick_device(self.device)).eval()

    @property
    def _pad(self) -> int:
        tokenizer = self._tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None:
            raise ConfigError(f"{self.name} has neither a padding nor an end token: set pad_token in its tokenizer")
        return int(pad)

    @property
    def _context(self) -> int:
        """In tokens. A tokenizer that does not know says 10^30."""
        positions = getattr(self._config, "max_position_embeddings", None)
        return int(min(positions or 1 << 30, self._tokenizer.model_max_length))

    def _loaded(self, kind: Any, **how: Any) -> Any:
        try:
            with quiet():
                return kind.from_pretrained(self._path, **how)
        except (OSError, ValueError, KeyError) as e:
            raise ConfigError(f"{self.name} cannot be loaded: {shorten(str(e), 300)}") from e
