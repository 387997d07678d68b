"""A `Generate` whose answers a test writes: no engine, no teacher."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kdaug.record import Message, text_of
from kdaug.teacher import Completion, TokenLogprobs, Until, as_messages, patiently


@dataclass(frozen=True)
class Call:
    """What was asked: `prompt` is its plain text (`text_of`), `sampling` the keywords given."""

    role: str
    prompt: str
    messages: tuple[Message, ...]
    sampling: dict[str, Any]
    scope: tuple[str, ...]


@dataclass
class Scripted:
    """Answers by `replies(role, prompt text, sampling)`; a text stands for a finished completion, an exception is
    raised. Every call is in `calls`, in order, those of branches too."""

    replies: Callable[[str, str, dict[str, Any]], str | Completion | Exception]
    calls: list[Call] = field(default_factory=list)
    scope: tuple[str, ...] = ()
    things: dict[str, Any] = field(default_factory=dict)
    view: Callable[[Sequence[Message], Sequence[Message]], Sequence[float]] | None = None  # a white-box model's

    async def __call__(
        self,
        prompt: str | Sequence[Message],
        *,
        role: str = "teacher",
        schema: Any = None,
        tools: Sequence[Any] = (),
        logprobs: int = 0,
        weigh: Sequence[str] = (),
        continues: str = "assistant",
        **sampling: Any,
    ) -> Completion:
        messages = as_messages(prompt)
        asked = dict(sampling)
        if schema is not None:
            asked["schema"] = schema
        if tools:
            asked["tools"] = tuple(tools)
        if logprobs:
            asked["logprobs"] = logprobs
        if continues != "assistant":
            asked["continues"] = continues
        if weigh:
            asked["weigh"] = tuple(weigh)
        self.calls.append(Call(role, text_of(messages), messages, asked, self.scope))
        key = "/".join(("job", *self.scope, str(sum(c.scope == self.scope for c in self.calls) - 1)))
        answer = self.replies(role, text_of(messages), asked)
        if isinstance(answer, Exception):
            raise answer
        completion = answer if isinstance(answer, Completion) else Completion(answer)
        return replace(completion, teacher=completion.teacher or f"scripted-{role}", key=completion.key or key)

    async def logprobs(
        self, prompt: Sequence[Message], completion: Sequence[Message], *, role: str = "teacher", top_k: int = 0
    ) -> TokenLogprobs:
        if self.view is None:
            raise NotImplementedError("this scripted teacher has no logprobs")
        told = np.array(self.view(prompt, completion), dtype=np.float32)
        none = np.empty((len(told), 0))
        return TokenLogprobs(np.zeros(len(told), dtype=np.int64), told, none, none, np.ones(len(told)))

    async def once(self, what: Any, do: Callable[[], Awaitable[Any]]) -> Any:
        return await do()

    @property
    def until(self) -> Until:
        return patiently

    def shared(self, name: str, make: Callable[[], Any]) -> Any:
        return self.things.get(name) or self.things.setdefault(name, make())

    def branch(self, label: str | int) -> Scripted:
        return Scripted(self.replies, self.calls, (*self.scope, str(label)), things=self.things)

    @property
    def prompts(self) -> list[str]:
        """The texts asked, in order."""
        return [call.prompt for call in self.calls]


def in_turn(*answers: str | Completion | Exception) -> Callable[[str, str, dict[str, Any]], Any]:
    """`replies` that gives `answers` one after the other and fails the test at one call too many."""
    left = iter(answers)

    def reply(role: str, prompt: str, sampling: dict[str, Any]) -> str | Completion | Exception:
        answer = next(left, None)
        assert answer is not None, f"one call too many, to {role}: {prompt!r}"
        return answer

    return reply
