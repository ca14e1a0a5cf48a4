"""Lists files from the catalog, page by page.

Keyset pagination: a file uploaded or deleted between two pages does not shift the others.

Words, parts of names, tags and metadata are found through inverted indexes, which know no order. So a page with such a
condition is found in steps, each with a bounded cost, and no step depends on a right guess:

1. PostgreSQL estimates the number of matches (of a part of a name: the first rows in order do). If they are few, all are
   read and sorted.
2. If they are more, they are sought among as many rows in order as probably hold the page. Few rows are read; in a wider
   window PostgreSQL can intersect the index of the condition with that of the order.
3. As long as the page is not full, the window grows up to eightfold, and at last all matches are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Executable, Row, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.clock import rfc3339
from artstore.database import Database
from artstore.database_errors import DatabaseBusy
from artstore.errors import DATABASE, SearchTooSlow, Unavailable

from .parse import Search, SortValue, cursor_after
from .statements import (
    SPARE_ROWS,
    Indexed,
    Part,
    boundary_statement,
    count_statement,
    estimate_statement,
    is_by_words,
    ordered_statement,
    page_statement,
    words_statement,
)

FEW_MATCHES = 5_000
"""So many are read and sorted: some 3 µs each."""
WALK_ROWS = 8_000
"""So many rows are read in order: 1 to 3 µs each. In a wider window the matches are found through their index."""
SAMPLE_ROWS = 2_000
"""PostgreSQL cannot estimate how many names contain a text; so many rows show whether it is frequent."""
WINDOW_PAGES = 4
"""The first window probably holds the matches of so many pages: twice as much where PostgreSQL counts a word and its
beginning as two. A row that only widens a window costs 0.1 µs."""
WIDER = 8
MAX_TOTAL = 10_000
"""Matches are counted one by one, and no further."""
INDEX_LATE_S = 10.0
"""An index of words that is older makes a search by `q` degraded."""

# The settings hold for the transaction. Each statement is planned for its values: a plan for any word would be wrong for
# most. The statements are short, so compiling them or starting workers would take longer than they do.
_PROGRESS = text(
    """SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true),
        set_config('max_parallel_workers_per_gather', '0', true), txid, position, walked_to IS NULL AS complete,
        (SELECT reltuples FROM pg_class WHERE oid = CAST('files' AS regclass)) AS files, (
        SELECT extract(epoch FROM now() - at) FROM changes
        WHERE (changes.txid, changes.position) > (done.txid, done.position) ORDER BY txid, position LIMIT 1) AS late_s
    FROM search_progress AS done"""
)


@dataclass(frozen=True, slots=True)
class Page:
    """`items` are attr.json documents, byte for byte. `total` counts the files of all pages, if it was asked for; MAX_TOTAL
    and not exact means that there are more. `complete` is False if files may be missing because the index of words is late."""

    items: Sequence[bytes]
    next_cursor: str | None
    total: int | None = None
    total_is_exact: bool = True
    complete: bool = True


async def search(database: Database, wanted: Search) -> Page:
    """Raises SearchTooSlow, and Unavailable without the catalog, because the elements cannot answer in one order."""
    try:
        async with database.begin(may_be_slow=True) as connection:
            indexed = await _load_progress(connection)
            rows = await _load_rows(connection, wanted, indexed)
            total = None
            if wanted.count:
                total = int(await connection.scalar(count_statement(wanted, indexed, MAX_TOTAL + 1)))
    except DatabaseBusy as error:  # only this query is too slow: the database is not unavailable
        raise SearchTooSlow("the search takes too long") from error
    except (SQLAlchemyError, Unavailable) as error:
        retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else None
        raise Unavailable("the catalog cannot be read", away=DATABASE, retry_after_s=retry_after_s) from error
    more = len(rows) > wanted.limit
    rows = rows[: wanted.limit]
    return Page(
        [row.attributes.encode() for row in rows],
        _next_cursor(wanted, rows[-1]) if more else None,
        None if total is None else min(total, MAX_TOTAL),
        total_is_exact=total is None or total <= MAX_TOTAL,
        complete=wanted.q is None or (indexed.complete and indexed.late_s < INDEX_LATE_S),
    )


async def _load_progress(connection: AsyncConnection) -> Indexed:
    row = (await connection.execute(_PROGRESS)).one()
    return Indexed(row.txid, row.position, row.complete, float(row.late_s or 0), float(row.files))


async def _load_rows(connection: AsyncConnection, wanted: Search, indexed: Indexed) -> Sequence[Row[Any]]:
    """One more row than the page has, to see whether there is a next page."""
    if not (wanted.q or wanted.filename or wanted.tags or wanted.metadata):
        return await _fetch(connection, ordered_statement(wanted))
    matches = await _estimate(connection, wanted, indexed)
    if wanted.filename is not None:
        sample = await _load_part(connection, wanted, indexed, Part(rows=SAMPLE_ROWS))
        if len(sample) > wanted.limit:
            return sample
        matches = max(matches, int(len(sample) / SAMPLE_ROWS * indexed.files))
    if matches <= FEW_MATCHES:
        rows = await _load_part(connection, wanted, indexed, Part(most=FEW_MATCHES))
        if not rows or rows[0].matches <= FEW_MATCHES:
            return rows
        matches = FEW_MATCHES
    window = int(WINDOW_PAGES * (wanted.limit + 1) * indexed.files / matches)
    while 2 * window < indexed.files:
        part = Part(rows=window) if window <= WALK_ROWS else await _load_window(connection, wanted, window)
        rows = await _load_part(connection, wanted, indexed, part)
        if len(rows) > wanted.limit or part == Part():
            return rows
        window = int(window * min(WIDER, max(2, 2 * wanted.limit / (len(rows) or 1))))
    return await _load_part(connection, wanted, indexed, Part())


async def _load_window(connection: AsyncConnection, wanted: Search, rows: int) -> Part:
    boundary: Any = (await connection.execute(boundary_statement(wanted, rows))).one_or_none()
    return Part() if boundary is None else Part(until=(boundary[0], boundary[1]))


async def _estimate(connection: AsyncConnection, wanted: Search, indexed: Indexed) -> int:
    result: Any = await connection.execute(estimate_statement(wanted, indexed))
    return int(result.scalar_one()[0]["Plan"]["Plan Rows"])


async def _load_part(connection: AsyncConnection, wanted: Search, indexed: Indexed, part: Part) -> Sequence[Row[Any]]:
    if is_by_words(wanted, indexed):
        first = await _fetch(connection, words_statement(wanted, part))
        found = [row for row in first if row.attributes is not None]
        if len(found) > wanted.limit or len(first) < wanted.limit + 1 + SPARE_ROWS:
            return found[: wanted.limit + 1]
    return await _fetch(connection, page_statement(wanted, indexed, part))


async def _fetch(connection: AsyncConnection, statement: Executable) -> Sequence[Row[Any]]:
    rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
    return rows


def _next_cursor(wanted: Search, last: Row[Any]) -> str:
    value: SortValue | datetime = last.sort_value
    moment = rfc3339(value) if isinstance(value, datetime) else value
    return cursor_after(wanted, moment, str(last.file_id))
