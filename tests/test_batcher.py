"""The batcher: batches gather while one runs, agree in group, and give each caller his own result."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from kdaug.batcher import Batcher


def test_calls_are_gathered_grouped_and_answered_each_to_his_own() -> None:
    batches: list[list[int]] = []

    async def double(items: list[int]) -> Sequence[int]:
        batches.append(items)
        await asyncio.sleep(0.001)
        return [2 * i for i in items]

    async def main() -> list[int]:
        batcher = Batcher(double, 4, group=lambda i: i % 2)
        return await asyncio.gather(*(batcher(i) for i in range(20)))

    assert asyncio.run(main()) == [2 * i for i in range(20)]
    assert all(len(b) <= 4 and len({i % 2 for i in b}) == 1 for b in batches)
    assert len(batches) == 6


def test_a_batch_takes_the_oldest_and_what_is_nearest_to_it_in_order() -> None:
    batches: list[list[str]] = []

    async def echo(items: list[str]) -> Sequence[str]:
        batches.append(items)
        return items

    async def main() -> None:
        batcher = Batcher(echo, 2, order=len)
        await asyncio.gather(*(batcher("x" * n) for n in (5, 90, 6, 91)))

    asyncio.run(main())
    assert [[len(t) for t in batch] for batch in batches] == [[5, 6], [90, 91]]


def test_one_failed_item_fails_alone_and_a_failed_batch_fails_all_of_its_callers() -> None:
    async def run(items: list[int]) -> Sequence[int | Exception]:
        if 13 in items:
            raise RuntimeError("the whole batch")
        return [ValueError("odd") if i % 2 else i for i in items]

    async def main() -> list[int | BaseException]:
        batcher: Batcher[int, int] = Batcher(run, 4, group=lambda i: i // 10)
        return await asyncio.gather(*(batcher(i) for i in (2, 3, 12, 13)), return_exceptions=True)

    two, three, twelve, thirteen = asyncio.run(main())
    assert two == 2
    assert isinstance(three, ValueError)
    assert isinstance(twelve, RuntimeError)
    assert isinstance(thirteen, RuntimeError)


def test_a_caller_that_is_cancelled_disturbs_nobody() -> None:
    async def run(items: list[int]) -> Sequence[int]:
        await asyncio.sleep(0.01)
        return items

    async def main() -> int:
        batcher = Batcher(run, 1)
        first, second = asyncio.create_task(batcher(1)), asyncio.create_task(batcher(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert asyncio.run(main()) == 2
