"""One batcher for every backend that works on several items at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects single calls into batches: while one batch runs, the next one gathers.

    `run` gets at most `size` items that agree in `group` (such as their sampling), sorted by `order` where it is given
    (such as their length, so that padding is small), and returns one result an item, in its order; a result that is an
    exception is raised to its caller. The first item waits `linger` seconds for company.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        size: int,
        *,
        group: Callable[[Item], Hashable] = lambda item: None,
        order: Callable[[Item], int] | None = None,
        linger: float = 0.01,
    ) -> None:
        self._run, self._size, self._group, self._order, self._linger = run, size, group, order, linger
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def aclose(self) -> None:
        """Ends the worker; whoever still waits is cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()

    async def _work(self) -> None:
        while self._waiting:
            if len(self._waiting) < self._size:
                await asyncio.sleep(self._linger)
            batch = self._take()
            if not batch:
                continue
            try:
                results = await self._run([item for item, _ in batch])
            except asyncio.CancelledError:
                for _, future in batch:
                    future.cancel()
                raise
            except Exception as e:  # noqa: BLE001 - not swallowed: it is raised to every caller of this batch
                results = [e] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """The next batch: the oldest item and those of its group, nearest in `order`. Oldest first keeps it fair."""
        self._waiting = [(item, future) for item, future in self._waiting if not future.done()]
        if not self._waiting:
            return []
        first = self._group(self._waiting[0][0])
        mates = [entry for entry in self._waiting if self._group(entry[0]) == first]
        if self._order is not None and len(mates) > self._size:
            order, oldest = self._order, self._order(mates[0][0])
            mates = [mates[0], *sorted(mates[1:], key=lambda entry: abs(order(entry[0]) - oldest))]
        batch = mates[: self._size]
        taken = {id(future) for _, future in batch}
        self._waiting = [entry for entry in self._waiting if id(entry[1]) not in taken]
        return batch
