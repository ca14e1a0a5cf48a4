"""GET /api/changes: every creation, change and deletion of a file, once, in an order that never changes.

The order is (transaction, position in it). Transactions are numbered when they begin to write and become visible when they
commit, so a number alone is no cursor: a change is given out only when every transaction with a lower number has ended.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from artstore.clock import rfc3339
from artstore.database import Database
from artstore.errors import CursorExpired, InvalidFields, Unavailable

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
MAX_WAIT_S = 30
LOOK_EVERY_S = 0.5
"""How often a process with waiting readers looks for new changes: one query for all of them."""

# `pg_snapshot_xmin` is the lowest transaction that has not ended: all below it are settled.
_PAGE = text(
    """SELECT changes.txid, changes.position, change, changes.file_id::text, changes.revision, changes.at, files.attributes
    FROM changes LEFT JOIN files ON files.file_id = changes.file_id AND files.state = 'available'
    WHERE (changes.txid, changes.position) > (:txid, :position)
    AND changes.txid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
    ORDER BY changes.txid, changes.position LIMIT :limit"""
)
_KEPT = text(
    """SELECT purged.txid, purged.position, CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next_txid
    FROM changes_purged AS purged"""
)
_NEWEST = text(
    """SELECT txid, position FROM changes
    WHERE txid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
    ORDER BY txid DESC, position DESC LIMIT 1"""
)


class Position(NamedTuple):
    """A change's place in the order; compares as the database does."""

    txid: int
    position: int


START = Position(0, 0)


class Page(NamedTuple):
    """`items` are JSON objects; `next` is where to go on, also after an empty page."""

    items: Sequence[bytes]
    next: Position


class Feed:
    """`look` is a periodic task; it asks nothing while nobody waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._newest = START
        self._waiting = 0
        self._moved = asyncio.Event()

    async def read(self, since: Position | None, limit: int, wait_s: float) -> Page:
        """Changes after `since` (None: all that are kept), at most `limit`; waits up to `wait_s` seconds for the first.

        Raises Unavailable while the catalog is away, and CursorExpired.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        page = await self._page(since, limit)
        self._waiting += 1
        try:
            while not page.items and (left_s := until - loop.time()) > 0:
                if self._newest <= page.next:
                    await self._wait_for_look(left_s)
                else:  # it was purged meanwhile
                    await asyncio.sleep(min(LOOK_EVERY_S, left_s))
                page = await self._page(page.next, limit)
        finally:
            self._waiting -= 1
        return page

    async def look(self) -> None:
        """Wakes the readers that wait when there is a newer change than before. Raises Unavailable."""
        if not self._waiting:
            return
        async with self._database.begin() as connection:
            row = (await connection.execute(_NEWEST)).first()
        newest = Position(row.txid, row.position) if row is not None else START
        if newest != self._newest:
            self._newest = newest
            self._moved.set()
            self._moved = asyncio.Event()

    async def _wait_for_look(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._moved.wait()
        except TimeoutError:
            pass

    async def _page(self, since: Position | None, limit: int) -> Page:
        after = since or START
        try:
            async with self._database.begin() as connection:
                rows = (await connection.execute(_PAGE, {**after._asdict(), "limit": limit})).all()
                # Read after the page: a purge that came between would have left a gap in it.
                kept = (await connection.execute(_KEPT)).one()
        except (SQLAlchemyError, Unavailable) as error:
            retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else None
            raise Unavailable("the catalog cannot be read", away="database", retry_after_s=retry_after_s) from error
        purged = Position(kept.txid, kept.position)
        if since is not None and since < purged:
            raise CursorExpired("changes after this cursor were purged: list the files, then start without since")
        if after.txid >= kept.next_txid:
            raise CursorExpired("the catalog was restored: list the files, then start without since")
        last = Position(rows[-1].txid, rows[-1].position) if rows else max(after, purged)
        return Page([_item(row) for row in rows], last)


def parse_feed(parameters: Sequence[tuple[str, str]]) -> tuple[Position | None, int, float]:
    """since, limit and wait_s. Raises InvalidFields with the names of all parameters that are wrong."""
    since: Position | None = None
    numbers = {"limit": DEFAULT_LIMIT, "wait_s": 0}
    wrong: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in parameters:
        if name in seen:
            wrong[name] = "given twice"
        seen.add(name)
        if name == "since":
            try:
                since = decode_position(value) if value else None
            except ValueError as error:
                wrong[name] = str(error)
        elif name in numbers:
            least, most = (1, MAX_LIMIT) if name == "limit" else (0, MAX_WAIT_S)
            if not (value.isascii() and value.isdigit() and len(value) <= 4 and least <= int(value) <= most):
                wrong[name] = f"must be a number from {least} to {most}"
            else:
                numbers[name] = int(value)
        else:
            wrong[name] = "not a parameter of this list"
    if wrong:
        said = "; ".join(f"{name}: {problem}" for name, problem in wrong.items())
        raise InvalidFields(said, fields=sorted(wrong))
    return since, numbers["limit"], numbers["wait_s"]


def encode_position(position: Position) -> str:
    """Opaque to the client."""
    return base64.urlsafe_b64encode(orjson.dumps(["changes", *position])).decode().rstrip("=")


def decode_position(cursor: str) -> Position:
    """Raises ValueError."""
    try:
        kind, txid, position = orjson.loads(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
    except (ValueError, TypeError) as error:
        raise ValueError("must be a next_cursor of this list") from error
    if kind != "changes" or not all(type(number) is int and 0 <= number < 2**63 for number in (txid, position)):
        raise ValueError("must be a next_cursor of this list")
    return Position(txid, position)


def _item(row: Any) -> bytes:
    known = {"change": row.change, "file_id": row.file_id, "revision": row.revision, "at": rfc3339(row.at)}
    file = row.attributes.encode() if row.attributes is not None else b"null"
    return orjson.dumps(known)[:-1] + b',"file":' + file + b"}"
