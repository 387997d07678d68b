"""Teachers: one request in, one completion out. Retry, limits and budgets are teachers that wrap a teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, runtime_checkable

import orjson

from kdaug.errors import ConfigError, ParseError, TeacherError
from kdaug.record import Json, Message, Messages, ToolCall

if TYPE_CHECKING:
    import numpy as np

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "other"]
# Whether a reply to a schema has the wanted form: as it is, after a mild repair, or not; "" where none was wanted.
Fit: TypeAlias = Literal["", "valid", "repaired", "wrong"]
HOTTEST = 5.0  # OpenAI takes up to 2; far above that a model writes noise
Result = TypeVar("Result")
# {"json": a JSON schema}, {"regex": "…"} or {"choice": ["…", …]}: exactly one of them.
Schema: TypeAlias = dict[str, Json]
# What a reply goes on from: the conversation, as its assistant or as its user, or the bare text of its one message.
Continues: TypeAlias = Literal["assistant", "user", "text"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample one completion. `logprobs`: how many alternatives a token to return (0: none).

    `schema` is the form of the reply, as `as_schema` gives it: a teacher that can constrain its replies to it does so.
    Raises ConfigError for what no teacher takes.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logprobs: int = 0
    schema: Schema | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}: it must be at least 1")
        if not 0 <= self.temperature <= HOTTEST or not 0 < self.top_p <= 1 or self.logprobs < 0:
            raise ConfigError(
                f"temperature {self.temperature}, top_p {self.top_p}, logprobs {self.logprobs}: the first is from 0 to "
                f"{HOTTEST:g}, the second above 0 and at most 1, the last at least 0"
            )


class SamplingArgs(TypedDict, total=False):
    """The keywords of `generate`: those of `Sampling`."""

    temperature: float
    top_p: float
    max_tokens: int
    stop: Sequence[str]
    presence_penalty: float
    frequency_penalty: float
    seed: int | None


async def _uncounted(request: Request, failed: TeacherError | None = None) -> None:
    """Nobody counts what this request costs."""


class Again(Protocol):
    def __call__(self, request: Request, failed: TeacherError | None = None) -> Awaitable[None]: ...


async def patiently(waiting: Awaitable[Result], failed: TeacherError | None = None) -> Result:
    """Nobody ends the run meanwhile."""
    return await waiting


class Until(Protocol):
    def __call__(self, waiting: Awaitable[Result], failed: TeacherError | None = None) -> Awaitable[Result]: ...


@dataclass(frozen=True, slots=True)
class Request:
    """What a teacher is asked.

    `weigh`: short words of which the reply is to be one. A teacher that can say their probabilities gives them in
    `Completion.weights`; any other ignores it.

    `continues`: whose words the reply is. "assistant": an answer; "user": the next turn of the user, from the model's
    own chat template up to that turn; "text": what follows on the bare text of the one message, with no template at
    all. The last two are for a teacher with `raw_prompt = True`.

    Three fields are no part of what is asked, so not of the digest either. `nonce` tells apart equal requests of one
    run (a teacher may seed its sampling by it). `again` is awaited by whoever sends this request once more, or one made
    of it, before he does, with the request to be sent and the error of the attempt before it (None where that had a
    reply): it reserves what that may cost, and raises BudgetExceeded. `until` is for whoever does not send it yet: it
    awaits what he waits for, and raises calls.Unsent when the run ends first; `failed` is the error that he waits
    after.
    """

    messages: Messages
    sampling: Sampling = Sampling()
    tools: tuple[Json, ...] = ()
    nonce: int = field(default=0, compare=False)
    again: Again = field(default=_uncounted, compare=False, repr=False)
    until: Until = field(default=patiently, compare=False, repr=False)
    weigh: tuple[str, ...] = ()
    continues: Continues = "assistant"

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"messages": [m.to_json() for m in self.messages], "sampling": self.sampling}
        if self.tools:
            plain["tools"] = list(self.tools)
        if self.weigh:
            plain["weigh"] = list(self.weigh)
        if self.continues != "assistant":
            plain["continues"] = self.continues
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Request:
        how = {**plain["sampling"], "stop": tuple(plain["sampling"]["stop"])}
        messages = tuple(Message.from_json(m) for m in plain["messages"])
        return cls(
            messages,
            Sampling(**how),
            tuple(plain.get("tools", ())),
            weigh=tuple(plain.get("weigh", ())),
            continues=plain.get("continues", "assistant"),
        )

    def digest(self, teacher: str) -> str:
        """64 bits that stand for (teacher, request) in a journal key."""
        body = orjson.dumps([teacher, self.to_json()], option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(body, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the teacher counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


def _no_ids() -> np.ndarray[Any, Any]:
    import numpy as np

    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class TokenLogprobs:
    """A model's own view of T tokens, at temperature 1.

    `token_ids` [T], `token_logprobs` [T], `top_ids` [T, k], `top_logprobs` [T, k] (best first), `residual` [T]: the
    probability outside the top k. `context_ids` [C]: the tokens before them. `tokenizer`: a hash of the vocabulary that
    the ids are of.
    """

    token_ids: np.ndarray[Any, Any]
    token_logprobs: np.ndarray[Any, Any]
    top_ids: np.ndarray[Any, Any]
    top_logprobs: np.ndarray[Any, Any]
    residual: np.ndarray[Any, Any]
    context_ids: np.ndarray[Any, Any] = field(default_factory=_no_ids)
    tokenizer: str = ""

    def after(self, context_ids: Sequence[int], tokenizer: str) -> TokenLogprobs:
        """The same view, and what came before it."""
        import numpy as np

        return replace(self, context_ids=np.array(context_ids, dtype=np.int64), tokenizer=tokenizer)


@dataclass(frozen=True, slots=True)
class Completion:
    """A teacher's answer. `reasoning` is kept apart from `text`; `fit`, `teacher` and `key` are set by the engine.

    Of a reply to a schema, `text` is what is valid under it; the reply word for word is in the journal, under `key`.
    `weights`: the probabilities of the words that were to be weighed, of 1 in all, at the first token of the reply that
    is one of them; empty where no token is, or the teacher cannot tell.
    """

    text: str
    finish_reason: FinishReason = "stop"
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    logprobs: TokenLogprobs | None = field(default=None, compare=False)
    weights: Mapping[str, float] = field(default_factory=dict, compare=False)
    fit: Fit = ""
    teacher: str = ""
    key: str = ""

    @property
    def parsed(self) -> Any:  # Any: whatever the schema of the question says
        """The JSON value of `text`; of a choice or a regular expression the text. Raises ParseError for a text that is
        neither JSON nor of the form that it was asked in."""
        try:
            return orjson.loads(self.text)
        except orjson.JSONDecodeError as e:
            if self.fit in ("valid", "repaired"):
                return self.text
            raise ParseError("JSON", self.text) from e

    @property
    def message(self) -> Message:
        """The answer as a turn of the conversation."""
        return Message("assistant", self.text, self.tool_calls)

    @property
    def cut(self) -> bool:
        """Whether it ended because `max_tokens` were used up: its last piece is suspect."""
        return self.finish_reason == "length"


class Teacher(Protocol):
    """The one-method boundary to a model.

    `name` (model, revision, kind of endpoint) is part of every journal key; `concurrency` is how many requests it can
    use in flight. `open` is called once, before the first request, with a folder of the run in which the teacher may
    keep what must survive a kill. `flush`: every live job waits, so send what you hold back.

    A teacher that waits for `flush` has an attribute `holds_back = True`. At the end of a run nobody waits for its
    replies, which may take a day, nor for those of a teacher with `lets_go = True`, which cost nothing but time: both
    are closed, and `aclose` ends their calls with `calls.Closing`.
    """

    @property
    def name(self) -> str: ...
    @property
    def concurrency(self) -> int: ...
    async def open(self, state: Path) -> None: ...
    async def generate(self, request: Request) -> Completion: ...
    async def flush(self) -> None: ...
    async def aclose(self) -> None: ...


def holds_back(teacher: Teacher) -> bool:
    """Whether it sends nothing before it is told to by `flush`."""
    return bool(getattr(teacher, "holds_back", False))


def takes_raw_prompts(teacher: Teacher) -> bool:
    """Whether it can go on from a bare text, or as the user: it knows its model's tokens and template."""
    return bool(getattr(teacher, "raw_prompt", False))


def needs_raw_prompts(teacher: Teacher, role: str) -> ConfigError:
    return ConfigError(
        f"{teacher.name} cannot go on from a bare text or as the user, which the {role} is asked to: use local:MODEL "
        "or vllm:MODEL, which know their model's chat template"
    )


ROLES = ("teacher", "student", "judge")  # those that have an option of the command line


def role_option(role: str, spec: str) -> str:
    """How the command line gives a role its teacher."""
    return f"--{role} {spec}" if role in ROLES else f"--set roles.{role}={spec}"


def lets_go(teacher: Teacher) -> bool:
    """Whether its calls are given up at the end of a run."""
    return holds_back(teacher) or bool(getattr(teacher, "lets_go", False))


@runtime_checkable
class ScoringTeacher(Protocol):
    """A white-box teacher: it can score a given completion."""

    async def logprobs(self, prompt: Messages, completion: Messages, top_k: int) -> TokenLogprobs:
        """Score the completion's tokens (end-of-turn included), each given all before it."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A teacher that can say how it fares."""

    @property
    def status(self) -> str:
        """A few words such as "64 of 128 slots, pausing 3 s after 429"; empty when there is nothing to say."""
        ...


def as_messages(prompt: str | Sequence[Message]) -> Messages:
    """A text as a user's turn. Raises ConfigError for what is no message."""
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if wrong := next((m for m in prompt if not isinstance(m, Message)), None):
        raise ConfigError(f"{wrong!r} is no message: write kd.Message(role, content), or kd.user(text)")
    return tuple(prompt)


def as_schema(given: Any) -> Schema | None:  # Any: also a class of pydantic, which is not imported
    """What a reply is constrained to, in one form: from a pydantic model (the class), a JSON schema, `{"json": …}`,
    `{"regex": "…"}`, `{"choice": […]}`, or a list of choices. Raises ConfigError for anything else."""
    if given is None:
        return None
    if hasattr(given, "model_json_schema"):
        return {"json": given.model_json_schema()}
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = {"choice": list(given)}
    if not isinstance(given, dict):
        raise ConfigError(
            f"schema={given!r}: give a pydantic model, a JSON schema, {{'regex': …}} or a list of choices"
        )
    if len(given) != 1 or given.keys().isdisjoint(("json", "regex", "choice")):
        return {"json": given}
    ((kind, value),) = given.items()
    fits = {"json": isinstance(value, dict), "regex": isinstance(value, str), "choice": _is_choice(value)}
    if not fits[kind]:
        raise ConfigError(f"schema={given!r}: a JSON schema is an object, a regex a string, a choice a list of strings")
    return given


def _is_choice(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(choice, str) for choice in value)
