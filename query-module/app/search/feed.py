"""GET /api/changes: every creation, update and deletion of a file, once, in an order that never changes.

The order is (transaction, position in it). Transactions are numbered when they begin to write but become visible when they
commit, so a change is given out only when every transaction with a lower number has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from artstore.clock import rfc3339
from artstore.database import Database
from artstore.errors import DATABASE, CursorExpired, Unavailable
from artstore.http import lists
from artstore.tasks import wait_or_timeout

from .parse import NOT_OURS, decode_cursor, encode_cursor

MAX_WAIT_S = 30
POLL_INTERVAL_S = 0.5
"""For new changes while readers wait: one query for all readers of the process."""

# `pg_snapshot_xmin` is the lowest transaction that has not ended.
_PAGE = text(
    """SELECT changes.txid, changes.position, change, changes.file_id::text, changes.revision, changes.at, files.attributes
    FROM changes LEFT JOIN files ON files.file_id = changes.file_id AND files.state = 'available'
    WHERE (changes.txid, changes.position) > (:txid, :position)
    AND changes.txid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
    ORDER BY changes.txid, changes.position LIMIT :limit"""
)
_PURGED = text(
    """SELECT purged.txid, purged.position, CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next_txid
    FROM changes_purged AS purged"""
)
_NEWEST = text(
    """SELECT txid, position FROM changes
    WHERE txid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
    ORDER BY txid DESC, position DESC LIMIT 1"""
)


class Position(NamedTuple):
    """A change's place in the order, which compares as in the database."""

    txid: int
    position: int


START = Position(0, 0)


class ChangesPage(NamedTuple):
    """`items` are JSON objects; `next` is where to continue, also after an empty page."""

    items: Sequence[bytes]
    next: Position


class Feed:
    """`poll` is a periodic task, which queries nothing while no reader waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._newest = START
        self._waiting = 0
        self._moved = asyncio.Event()
        self._stopping = False

    async def read(self, since: Position | None, limit: int, wait_s: float) -> ChangesPage:
        """Changes after `since` (None: all that are kept), at most `limit`; waits up to `wait_s` seconds for the first,
        unless the service stops.

        Raises CursorExpired, and Unavailable without the catalog.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        page = await self._page(since, limit)
        self._waiting += 1
        try:
            while not page.items and not self._stopping and (left_s := until - loop.time()) > 0:
                if self._newest <= page.next:
                    await wait_or_timeout(self._moved, left_s)
                else:  # purged meanwhile
                    await asyncio.sleep(min(POLL_INTERVAL_S, left_s))
                page = await self._page(page.next, limit)
        finally:
            self._waiting -= 1
        return page

    async def end_waits(self, stopping: asyncio.Event) -> None:
        """Answers the waiting readers when the service stops, because their waits are longer than a stop."""
        await stopping.wait()
        self._stopping = True
        self._moved.set()

    async def poll(self) -> None:
        """Wakes the waiting readers when there is a newer change. Raises Unavailable."""
        if not self._waiting:
            return
        async with self._database.begin() as connection:
            row = (await connection.execute(_NEWEST)).first()
        newest = Position(row.txid, row.position) if row is not None else START
        if newest != self._newest:
            self._newest = newest
            self._moved.set()
            self._moved = asyncio.Event()

    async def _page(self, since: Position | None, limit: int) -> ChangesPage:
        after = since or START
        try:
            async with self._database.begin() as connection:
                rows = (await connection.execute(_PAGE, {**after._asdict(), "limit": limit})).all()
                # Read after the page, because a purge before it may have left a gap in the page.
                row = (await connection.execute(_PURGED)).one()
        except (SQLAlchemyError, Unavailable) as error:
            retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else None
            raise Unavailable("the catalog cannot be read", away=DATABASE, retry_after_s=retry_after_s) from error
        purged = Position(row.txid, row.position)
        if since is not None and since < purged:
            raise CursorExpired("changes after this cursor were purged: list the files, then start without since")
        if after.txid >= row.next_txid:
            raise CursorExpired("the catalog was restored: list the files, then start without since")
        last = Position(rows[-1].txid, rows[-1].position) if rows else max(after, purged)
        return ChangesPage([_item(row) for row in rows], last)


def parse_feed(parameters: Sequence[tuple[str, str]]) -> tuple[Position | None, int, float]:
    """since, limit and wait_s. Raises InvalidFields that names all wrong parameters."""
    found = lists.read_parameters(parameters, _READERS)
    return found.get("since"), found.get("limit", lists.DEFAULT_LIMIT), found.get("wait_s", 0)


def encode_position(position: Position) -> str:
    """Opaque to the client."""
    return encode_cursor(["changes", *position])


def decode_position(cursor: str) -> Position:
    """Raises ValueError."""
    match decode_cursor(cursor):
        case ["changes", txid, position] if all(type(n) is int and 0 <= n < 2**63 for n in (txid, position)):
            return Position(txid, position)
    raise ValueError(NOT_OURS)


_READERS: dict[str, lists.Reader] = {
    "since": decode_position,
    "limit": lists.limit,
    "wait_s": lists.integer(0, MAX_WAIT_S),
}


def _item(row: Any) -> bytes:
    item = {"change": row.change, "file_id": row.file_id, "revision": row.revision, "at": rfc3339(row.at)}
    file = row.attributes.encode() if row.attributes is not None else b"null"
    return orjson.dumps(item)[:-1] + b',"file":' + file + b"}"
