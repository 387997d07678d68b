"""A teacher inside this process: a transformers model that answers in batches and can score a given text."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from kdaug.batcher import Batcher
from kdaug.calls import Closing
from kdaug.chat import Chat, split_thought
from kdaug.device import computes_in_half, pick_device, quiet, threads
from kdaug.errors import ConfigError, ContextTooLong, TeacherUnavailable, require, shorten
from kdaug.models import find_model, locate_model
from kdaug.record import Messages
from kdaug.teacher import Completion, Request, TokenLogprobs, Usage
from kdaug.teachers.decoding import Asked, Row, decode, join, score
from kdaug.teachers.weights import ALTERNATIVES, spelled, weights_of

DTYPES = ("auto", "bfloat16", "float16", "float32")
SCORED = 8  # texts that are scored at a time: the logits of all their tokens are in memory at once
# Two models that compute at once on the CPU would only take turns at the same cores, and each waits for the other.
CORES = threading.Lock()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its chat; `context`: how many tokens it can see at once."""

    model: Any  # of transformers, whose types are not followed
    chat: Chat
    context: int


@dataclass(frozen=True, slots=True)
class Scored:
    """A text to score from its token `start` on."""

    ids: list[int]
    start: int
    top_k: int


@dataclass(eq=False)
class Local:
    """A transformers model in this process (`local:MODEL`): by default the embedded SmolLM2-135M-Instruct.

    `model`: a folder, a .gguf file or a Hub id. Up to `batch` requests are answered at once, whatever their sampling; a
    reply that ends makes the rest faster. `dtype="auto"` is bfloat16 where that is fast, else float32. Each request is
    sampled by its own seed, else its nonce; as the numbers of a batch depend a little on who is in it, that makes a
    reply likely the same, not surely. At the end of a run the batch that is being computed is given up. A schema
    constrains nothing here (vllm:MODEL does); tools are not supported.
    """

    model: str | None = None
    batch: int = 32
    device: str = "auto"
    dtype: str = "auto"
    name: str = field(init=False)
    lets_go: ClassVar[bool] = True
    raw_prompt: ClassVar[bool] = True
    _loaded: Loaded | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for module in ("torch", "transformers"):
            require(module, "local", "a local model")
        if self.batch < 1:
            raise ConfigError(f"batch={self.batch}: at least 1")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype={self.dtype!r}: give one of {', '.join(DTYPES)}")
        self.name = f"local:{locate_model(self.model).name}"
        self._closed = threading.Event()

    @property
    def concurrency(self) -> int:
        """One batch is computed while the next one gathers."""
        return 2 * self.batch

    async def open(self, state: Path) -> None:
        """Loads the model. Raises ConfigError where it cannot be loaded."""
        if self._loaded is not None:
            return
        self._closed.clear()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kdaug-local")
        self._loaded = await self._in_thread(self._load)
        # A batch takes as long as its longest reply, so replies that may be long do not keep short ones company.
        self._answers = Batcher(
            self._answer, self.batch, group=lambda asked: asked.sampling.max_tokens, order=lambda asked: len(asked.ids)
        )
        self._scores = Batcher(
            self._score, min(SCORED, self.batch), group=lambda text: text.top_k, order=lambda text: len(text.ids)
        )

    async def generate(self, request: Request) -> Completion:
        how, loaded = request.sampling, self._ready()
        if request.tools:
            raise ConfigError(f"{self.name} does not parse tool calls: use serve:MODEL")
        ids = loaded.chat.tokens_of(request.messages, request.continues)
        self._check_length(len(ids), how.max_tokens, request)
        try:
            seed = request.nonce if how.seed is None else how.seed
            row = await self._answers(Asked(ids, how, seed, how.logprobs or (ALTERNATIVES if request.weigh else 0)))
        except asyncio.CancelledError:
            if self._closed.is_set():
                raise Closing from None
            raise
        return self._completion(row, request.weigh)

    async def logprobs(self, prompt: Messages, completion: Messages, top_k: int) -> TokenLogprobs:
        """The model's view of an answer: its tokens and the end of its turn, each given all before it."""
        loaded = self._ready()
        ids, start = loaded.chat.score(prompt, completion)
        self._check_length(len(ids), 0, None)
        view = await self._scores(Scored(ids, start, top_k))
        return view.after(ids[:start], loaded.chat.digest)

    async def flush(self) -> None:
        """Nothing is held back for long: a batch that is not full goes all the same."""

    async def aclose(self) -> None:
        """Gives up the batch that is being computed and frees the model."""
        if self._loaded is None:
            return
        self._closed.set()
        await self._answers.aclose()
        await self._scores.aclose()
        await asyncio.to_thread(self._thread.shutdown)
        self._loaded = None

    def _ready(self) -> Loaded:
        if self._loaded is None:
            raise TeacherUnavailable(f"{self.name} is not open", teacher=self.name)
        return self._loaded

    def _check_length(self, tokens: int, more: int, request: Request | None) -> None:
        context = self._ready().context
        if tokens + more > context:
            text = f"{tokens} tokens and max_tokens={more} are more than the context of {context}"
            raise ContextTooLong(text, request=request, teacher=self.name)

    def _completion(self, row: Row, weighed: Sequence[str]) -> Completion:
        loaded, ids, asked = self._ready(), row.ids, row.asked
        view = join(row.measured).after(asked.ids, loaded.chat.digest) if row.measured else None
        text = loaded.chat.decode(ids[:-1] if ids[-1] in loaded.chat.ends else ids)
        cuts = [at for at in map(text.find, asked.sampling.stop) if at >= 0]
        reasoning, answer = split_thought(text[: min(cuts)] if cuts else text, loaded.chat.opens_thought(asked.ids))
        return Completion(
            answer,
            finish_reason=row.finish or "other",
            reasoning=reasoning,
            usage=Usage(len(asked.ids), len(ids)),
            logprobs=view if asked.sampling.logprobs else None,
            weights=weights_of(spelled(view, loaded.chat.tokenizer.decode), weighed) if view and weighed else {},
        )

    async def _answer(self, asked: list[Asked]) -> list[Row]:
        loaded = self._ready()
        rows: list[Row] = await self._in_thread(
            lambda: decode(loaded.model, asked, loaded.chat.ends, loaded.chat.decode, self._closed.is_set)
        )
        return rows

    async def _score(self, texts: list[Scored]) -> list[TokenLogprobs]:
        loaded = self._ready()
        views: list[TokenLogprobs] = await self._in_thread(
            lambda: score(loaded.model, [(t.ids, t.start) for t in texts], texts[0].top_k)
        )
        return views

    async def _in_thread(self, work: Any) -> Any:
        """What `work` returns, from the one thread that computes. Raises TeacherUnavailable when memory runs out."""
        from torch import OutOfMemoryError

        def compute() -> Any:
            if pick_device(self.device) != "cpu":
                return work()
            with CORES, threads():
                return work()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, compute)
        except (OutOfMemoryError, MemoryError) as e:
            raise TeacherUnavailable(
                f"{self.name}: out of memory with batch={self.batch}; give a smaller one", teacher=self.name
            ) from e

    def _load(self) -> Loaded:
        path = find_model(self.model).path  # a name that nobody knows is said before transformers is loaded
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        device = pick_device(self.device)
        dtype = self.dtype if self.dtype != "auto" else "bfloat16" if computes_in_half(device) else "float32"
        try:
            with quiet():
                chat = Chat.load(path)
                model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device).eval()
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as e:
            raise ConfigError(f"{path} cannot be loaded: {shorten(str(e), 300)}") from e
        return Loaded(model, chat, _context(model, chat.tokenizer))


def _context(model: Any, tokenizer: Any) -> int:
    """In tokens. A tokenizer that does not know says 10^30."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(min(positions or 1 << 30, tokenizer.model_max_length))
