"""Hard caps on what a run spends: a call's worst case is reserved durably before it is sent, and settled by its reply.

What a kill leaves reserved counts in full, for nobody knows whether that call was billed; and so does an attempt that
broke off in a way that may have been billed (a timeout, a torn reply).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from kdaug.errors import (
    AccessDenied,
    BadRequest,
    BudgetExceeded,
    ConfigError,
    ContextTooLong,
    RateLimited,
    TeacherError,
    TeacherUnavailable,
    Unrecorded,
)
from kdaug.journal import Journal
from kdaug.prices import Price
from kdaug.teacher import Completion, Request

Waiting: TypeAlias = Callable[[], AbstractContextManager[None]]

# The server said no before it computed anything, or nobody was there.
UNBILLED_FAILURES = (RateLimited, AccessDenied, BadRequest, ContextTooLong, TeacherUnavailable, Unrecorded)
# No tokenizer makes more tokens of a text than it has bytes; a chat template adds some for each message, some for a
# system prompt of its own (Qwen2.5: 20), and writes tools out at more length than compact JSON.
PER_MESSAGE, PER_REQUEST, TOOL_FACTOR = 16, 128, 2


@dataclass(frozen=True, slots=True)
class Caps:
    """What a run may spend at most, all of its resumed parts together; None: no limit.

    `max_cost` in US dollars, `max_tokens` of prompts and completions, `max_calls`: requests sent, repeated ones too.
    """

    max_cost: float | None = None
    max_tokens: int | None = None
    max_calls: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_cost", "max_tokens", "max_calls"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}: it must be more than 0")

    def __bool__(self) -> bool:
        return (self.max_cost, self.max_tokens, self.max_calls) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Amount:
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.calls + other.calls, self.tokens + other.tokens, self.cost + other.cost)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.calls - other.calls, self.tokens - other.tokens, self.cost - other.cost)


def worst_case(request: Request) -> tuple[int, int]:
    """(prompt, completion) tokens that a request can take at most."""
    texts = sum(len(m.content.encode()) + sum(len(c.arguments) for c in m.tool_calls) for m in request.messages)
    tools = TOOL_FACTOR * len(orjson.dumps(request.tools)) if request.tools else 0
    return texts + tools + PER_MESSAGE * len(request.messages) + PER_REQUEST, request.sampling.max_tokens


def may_be_billed(error: TeacherError) -> bool:
    return error.billed or not isinstance(error, UNBILLED_FAILURES)


class Budget:
    """The ledger of a run under caps. Raises ConfigError where a cap on the cost meets a teacher without a price."""

    def __init__(self, caps: Caps, prices: Mapping[str, Price | None], journal: Journal) -> None:
        unknown = sorted(name for name, price in prices.items() if price is None)
        if caps.max_cost is not None and unknown:
            raise ConfigError(
                f"max_cost needs the price of {', '.join(unknown)}, which is unknown: give it with "
                f"--price '{unknown[0].partition(':')[2]}=INPUT,OUTPUT' (US dollars per million tokens), as prices: in "
                "the recipe, or pip install 'kdaug[prices]' for a table of prices"
            )
        self.caps, self._prices, self.journal = caps, prices, journal
        self.counted = Amount()  # what was spent, and what is reserved
        for teacher, calls, prompt_tokens, completion_tokens in journal.spending():
            self.counted += self.amount(teacher, calls, prompt_tokens, completion_tokens)
        self._next = journal.next_reservation()
        self._left: dict[tuple[int, int, str, int, int], list[int]] = {}
        for id, stage, job, teacher, prompt, completion in journal.reservations():
            self._left.setdefault((stage, job, teacher, prompt, completion), []).append(id)
        self._live = 0
        self._closed = False
        self._moved = asyncio.Event()

    def account(self, stage: int, job: int, teacher: str) -> Account:
        """For one call, with all its attempts."""
        return Account(self, stage, job, teacher)

    def close(self) -> None:
        """Nobody waits for money any more."""
        self._closed = True
        self._move()

    def status(self) -> str:
        """What was spent and reserved, of what: `$0.42 of $5.00`."""
        caps, now = self.caps, self.counted
        parts = []
        if caps.max_cost is not None:
            parts.append(f"${now.cost:,.4g} of ${caps.max_cost:,.4g}")
        if caps.max_tokens is not None:
            parts.append(f"{now.tokens:,} of {caps.max_tokens:,} tokens")
        if caps.max_calls is not None:
            parts.append(f"{now.calls:,} of {caps.max_calls:,} calls")
        return " · ".join(parts)

    async def take(self, amount: Amount, waiting: Waiting) -> bool:
        """Counts an amount, as soon as it fits; False where the run ends meanwhile. `waiting` holds while it waits.

        Raises BudgetExceeded when it does not fit and no call is out whose reservation may shrink.
        """
        while cap := self._exceeded(amount):
            if self._closed:
                return False
            if self._live == 0:
                raise BudgetExceeded(f"{cap} is reached: {self.status()}. A higher one goes on from here", cap)
            with waiting():
                await self._moved.wait()
        self.counted += amount
        self._live += 1
        return True

    def take_over(self, stage: int, job: int, teacher: str, tokens: tuple[int, int]) -> int | None:
        """The reservation that an earlier process left for such a call, counted already; the newest of them."""
        left = self._left.get((stage, job, teacher, *tokens))
        if not left:
            return None
        self._live += 1
        return left.pop()

    async def write(self, stage: int, job: int, teacher: str, prompt_tokens: int, completion_tokens: int) -> int:
        """The reservation's number, once it is durable."""
        id, self._next = self._next, self._next + 1
        await self.journal.reserve(id, stage, job, teacher, prompt_tokens, completion_tokens)
        return id

    def give_back(self, amount: Amount) -> None:
        """Of a call that is over: what it did not need after all."""
        self.counted -= amount
        self._live -= 1
        self._move()

    def _exceeded(self, more: Amount) -> str:
        then = self.counted + more
        for cap, value in (("max_cost", then.cost), ("max_tokens", then.tokens), ("max_calls", then.calls)):
            most = getattr(self.caps, cap)
            if most is not None and value > most:
                return cap
        return ""

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def amount(self, teacher: str, calls: int, prompt_tokens: int, completion_tokens: int) -> Amount:
        price = self._prices.get(teacher)  # a teacher that an earlier part of the run asked may have none
        cost = price.cost(prompt_tokens, completion_tokens) if price is not None else 0.0
        return Amount(calls, prompt_tokens + completion_tokens, cost)


class Account:
    """The reservations of one call: that of the attempt that is out, and of earlier turns that its reply will count."""

    __slots__ = ("_budget", "_job", "_open", "_stage", "_teacher")

    def __init__(self, budget: Budget, stage: int, job: int, teacher: str) -> None:
        self._budget, self._stage, self._job, self._teacher = budget, stage, job, teacher
        self._open: list[tuple[int, Amount]] = []

    def take_over(self, request: Request) -> bool:
        """Whether an earlier process reserved what this call takes: for a teacher that finds what was sent by then, and
        does not send it again."""
        tokens = worst_case(request)
        id = self._budget.take_over(self._stage, self._job, self._teacher, tokens)
        if id is None:
            return False
        self._open.append((id, self._budget.amount(self._teacher, 1, *tokens)))
        return True

    async def reserve(self, request: Request, waiting: Waiting = nullcontext) -> bool:
        """Before an attempt: its worst case is counted, and durable; False where the run ends meanwhile."""
        budget, tokens = self._budget, worst_case(request)
        worst = budget.amount(self._teacher, 1, *tokens)
        if not await budget.take(worst, waiting):
            return False
        self._open.append((await budget.write(self._stage, self._job, self._teacher, *tokens), worst))
        return True

    def failed(self, error: TeacherError, *, last: bool) -> None:
        """After an attempt that brought no reply. `last`: the journal gets the error as the call's reply."""
        id, worst = self._open.pop()
        self._settle(id, worst, calls=not last, billed=may_be_billed(error))
        while last and self._open:  # turns that had replies, which nobody will count now
            self._settle(*self._open.pop(), calls=True, billed=True)

    def unsent(self, failed: TeacherError | None) -> None:
        """The run ended before an attempt was made, perhaps after one that `failed`."""
        if failed is not None:
            self.failed(failed, last=False)
        elif self._open:
            id, worst = self._open.pop()
            self._budget.give_back(worst)
            self._budget.journal.settle(id, calls=False, billed=False)

    def answered(self, reply: Completion) -> None:
        """After a reply, with which it is settled in one transaction; a reply without usage costs the worst case."""
        used = reply.usage
        counted = bool(used.prompt_tokens or used.completion_tokens)
        if counted:
            self._budget.counted += self._budget.amount(self._teacher, 0, used.prompt_tokens, used.completion_tokens)
        for turn, (id, worst) in enumerate(self._open):
            self._settle(id, worst, calls=turn > 0, billed=not counted)

    def _settle(self, id: int, worst: Amount, *, calls: bool, billed: bool) -> None:
        """`calls`: the attempt is counted by this reservation and not by a reply of the journal."""
        self._budget.give_back(Amount() if billed else Amount(0, worst.tokens, worst.cost))
        self._budget.journal.settle(id, calls=calls, billed=billed)


class Tab:
    """Stands for the account of a call where there are no caps: nothing is reserved, and what an attempt without a
    reply may have cost is noted for the bill. Without a journal nothing is."""

    __slots__ = ("_job", "_journal", "_request", "_stage", "_teacher")

    def __init__(self, journal: Journal | None, stage: int, job: int, teacher: str) -> None:
        self._journal, self._stage, self._job, self._teacher = journal, stage, job, teacher
        self._request: Request | None = None

    def take_over(self, request: Request) -> bool:
        return False

    async def reserve(self, request: Request, waiting: Waiting = nullcontext) -> bool:
        self._request = request
        return True

    def failed(self, error: TeacherError, *, last: bool) -> None:
        if self._journal is not None and self._request is not None and may_be_billed(error):
            self._journal.note_attempt(self._stage, self._job, self._teacher, not last, *worst_case(self._request))

    def unsent(self, failed: TeacherError | None) -> None:
        if failed is not None:
            self.failed(failed, last=False)

    def answered(self, reply: Completion) -> None:
        """The reply tells what it cost."""
