"""Lists as async iterators that fetch their pages on the way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import InvalidAnswer
from .records import Change
from .transport import Call, Parameters, Transport, json_of

MAX_PAGE = 1000
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """One page. `next_cursor` is None on the last; `total` is None unless it was asked for."""

    items: list[R]
    next_cursor: str | None
    total: int | None
    degraded: tuple[str, ...]
    """The parts of the system that were away: items may be missing (X-ArtStore-Degraded)."""


class Listing(Generic[R]):
    """The items of a list: `async for item in listing`, or page by page with `pages()`. Each iteration begins anew."""

    def __init__(
        self, transport: Transport, path: str, parameters: Parameters, read: Callable[[Any], R], limit: int | None
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError("limit must be at least 1")
        self._transport = transport
        self._path = path
        self._parameters = parameters
        self._read = read
        self._limit = limit
        self.degraded: tuple[str, ...] = ()
        """The parts of the system that were away while pages were read, so that items may be missing."""

    async def __aiter__(self) -> AsyncIterator[R]:
        left = self._limit
        async for page in self.pages():
            for item in page.items[:left]:
                yield item
            if left is not None:
                left -= len(page.items)
                if left <= 0:
                    return

    async def pages(self, cursor: str | None = None, *, count: bool = False) -> AsyncGenerator[Page[R], None]:
        """Whole pages, from `cursor` on (`next_cursor` of an earlier page of the same list). `count` adds the total of
        all pages to a list of files."""
        counted = (("count", "true"),) if count else ()
        size = str(min(self._limit or MAX_PAGE, MAX_PAGE))
        while True:
            more = (("limit", size), *((("cursor", cursor),) if cursor else ()))
            page = await self._fetch((*self._parameters, *counted, *more))
            self.degraded = tuple(dict.fromkeys((*self.degraded, *page.degraded)))
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    async def all(self) -> list[R]:
        """Every item, in memory."""
        return [item async for item in self]

    async def _fetch(self, parameters: Parameters) -> Page[R]:
        answer = await self._transport.send(Call("GET", self._path, True, parameters))
        given = _object(json_of(answer))
        degraded = answer.headers.get("x-artstore-degraded", "")
        return Page(
            [self._read(item) for item in given["items"]],
            given.get("next_cursor"),
            given.get("total"),
            tuple(name.strip() for name in degraded.split(",") if name.strip()),
        )


class Changes:
    """Changes in the order of their commits: `async for change in changes`."""

    def __init__(self, transport: Transport, since: str | None, wait_s: int) -> None:
        self._transport = transport
        self._wait_s = wait_s
        self.cursor = since
        """Pass it as `since` to continue later. It follows the page, so that up to a page of changes is seen twice,
        and none is missed."""

    async def __aiter__(self) -> AsyncIterator[Change]:
        while True:
            parameters = [("limit", str(MAX_PAGE))]
            if self.cursor is not None:
                parameters.append(("since", self.cursor))
            if self._wait_s:
                parameters.append(("wait_s", str(self._wait_s)))
            given = _object(await self._transport.json(Call("GET", "/api/changes", True, parameters)))
            changes = [Change.from_json(item) for item in given["items"]]
            for number, change in enumerate(changes, 1):
                if number == len(changes):
                    self.cursor = given["next_cursor"]
                yield change
            self.cursor = given["next_cursor"]
            if not (changes or self._wait_s):
                return


def _object(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict) or not isinstance(given.get("items"), list):
        raise InvalidAnswer("a list has no items")
    return given
