"""Group commit: items of one turn of the event loop, or that arrive during a flush, are flushed together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Generic, TypeVar

from artstore.logs import joint_requests, request_id
from artstore.tasks import spawn
from artstore.tracing import shared_span

T = TypeVar("T")
R = TypeVar("R")

Flush = Callable[[list[T]], Awaitable[Sequence[R | BaseException]]]


class Group(Generic[T, R]):
    """Calls `flush` with the items of concurrent callers: at most `max_items` per flush and `parallel`
    flushes at a time.

    `flush` returns one result or exception per item, in order. If it raises, all of its items raise the same
    exception.
    """

    def __init__(self, flush: Flush[T, R], *, max_items: int, parallel: int = 1) -> None:
        self._flush = flush
        self._max_items = max_items
        self._parallel = parallel
        self._waiting: list[tuple[T, asyncio.Future[R], Context]] = []
        self._starting = 0
        """Flushes that have not taken their items yet."""
        self._flushing: set[asyncio.Task[None]] = set()

    async def add(self, item: T) -> R:
        """The result of the item. If the caller is cancelled, an item whose flush has begun is flushed
        nevertheless."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, copy_context()))
        self._pump()
        return await future

    def _pump(self) -> None:
        """A flush takes its items when its task runs. If it took them here, the first of the callers of one
        turn would be flushed alone, and the others would wait for it. It runs in the context of the first one, not in
        that of the caller before, whose request may have ended."""
        while len(self._waiting) > (first := self._starting * self._max_items) and len(self._flushing) < self._parallel:
            self._starting += 1
            task = spawn("group", self._run(), self._waiting[first][2].copy())
            self._flushing.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._flushing.discard(task)
        self._pump()

    async def _run(self) -> None:
        self._starting -= 1
        batch = [waiting for waiting in self._waiting[: self._max_items] if not waiting[1].cancelled()]
        del self._waiting[: self._max_items]
        if not batch:
            return
        try:
            results = await self._flush_for(batch)
        except BaseException as error:
            for _, future, _ in batch:
                if not future.done():
                    failed = (
                        ConnectionError("the group was stopped") if isinstance(error, asyncio.CancelledError) else error
                    )
                    future.set_exception(failed)
            if not isinstance(error, Exception):
                raise
            return
        for (_, future, _), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    async def _flush_for(self, batch: list[tuple[T, asyncio.Future[R], Context]]) -> Sequence[R | BaseException]:
        """One flush. When it serves several requests, its log lines and calls name all of them."""
        items = [item for item, _, _ in batch]
        if len(batch) == 1:
            return await self._flush(items)
        requests = {context.get(request_id, ""): None for _, _, context in batch}
        requests.pop("", None)
        if len(requests) > 1:
            joint_requests.set(tuple(requests))
        with shared_span([context for _, _, context in batch]):
            return await self._flush(items)
