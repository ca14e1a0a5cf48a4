"""Lists files from the catalog, page by page.

Keyset pagination: a file uploaded or deleted between two pages does not shift the others.

Words, parts of names, tags and metadata are found through inverted indexes, which know no order: a frequent word is
found fastest along the order of the page, a rare one through its index. PostgreSQL guesses which is better, and a wrong
guess costs seconds. Therefore a sample of the first rows in order decides: it is the page, if it is full; else it shows
how far the page would reach, and how many matches the index would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    Row,
    Select,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.tables import AVAILABLE, changes, file_search, files
from artstore.catalog.words import grams_of
from artstore.clock import parse_rfc3339, rfc3339
from artstore.contracts.media_type import essence_of
from artstore.database import Database
from artstore.database_errors import DatabaseBusy
from artstore.errors import DATABASE, SearchTooSlow, Unavailable

from .parse import TIMES, Search, SortValue, cursor_after
from .text_query import TextQuery

SPARE_ROWS = 100
"""Rows of deleted files that the index may still have among those of a page."""
SAMPLE_ROWS = 1_000
"""Rows in order that are inspected first: a few milliseconds. A condition that a tenth of them meet fills a page."""
WALK_MARGIN = 1.5
WALK_COST = 0.15
"""A row that is read in order of time costs this part of a match that is read from an index and then from `files`: rows that
were created together are stored together. In other orders, and where `files` need not be read, it costs about the same."""
INDEX_LATE_S = 10.0
"""An index of words that is older makes a search by `q` degraded."""

_PROGRESS = text(
    """SELECT txid, position, walked_to IS NULL AS complete,
        (SELECT reltuples FROM pg_class WHERE oid = CAST('files' AS regclass)) AS files, (
        SELECT extract(epoch FROM now() - at) FROM changes
        WHERE (changes.txid, changes.position) > (done.txid, done.position) ORDER BY txid, position LIMIT 1) AS late_s
    FROM search_progress AS done"""
)


@dataclass(frozen=True, slots=True)
class Page:
    """`items` are attr.json documents, byte for byte. `total` counts all pages, if it was asked for. `complete` is False if
    files may be missing because the index of words is late."""

    items: Sequence[bytes]
    next_cursor: str | None
    total: int | None = None
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Indexed:
    """How far `file_search` follows the catalog of about `files` rows. Changes after the position are not in it yet."""

    txid: int
    position: int
    complete: bool
    late_s: float
    files: float


async def search(database: Database, wanted: Search) -> Page:
    """Raises SearchTooSlow, and Unavailable without the catalog, because the elements cannot answer in one order."""
    try:
        async with database.begin(may_be_slow=True) as connection:
            indexed = await _load_progress(connection)
            rows = await _load_rows(connection, wanted, indexed)
            total = await connection.scalar(count_statement(wanted, indexed)) if wanted.count else None
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
        total,
        complete=wanted.q is None or (indexed.complete and indexed.late_s < INDEX_LATE_S),
    )


async def _load_progress(connection: AsyncConnection) -> Indexed:
    row = (await connection.execute(_PROGRESS)).one()
    return Indexed(row.txid, row.position, row.complete, float(row.late_s or 0), float(row.files))


async def _load_rows(connection: AsyncConnection, wanted: Search, indexed: Indexed) -> Sequence[Row[Any]]:
    """One more row than the page has, to see whether there is a next page."""
    if not (wanted.q or wanted.filename or wanted.tags or wanted.metadata):
        return await _fetch(connection, ordered_statement(wanted))
    sample = await _fetch(connection, walk_statement(wanted, SAMPLE_ROWS))
    if len(sample) > wanted.limit:
        return sample
    if walk := _rows_to_walk(wanted, len(sample), indexed.files):
        walked = await _fetch(connection, walk_statement(wanted, walk))
        if len(walked) > wanted.limit:
            return walked
    if _has_only_words(wanted):
        newest = await _fetch(connection, words_statement(wanted))
        found = [row for row in newest if row.attributes is not None]
        if len(found) > wanted.limit or len(newest) < wanted.limit + 1 + SPARE_ROWS:
            return found[: wanted.limit + 1]
    return await _fetch(connection, matching_statement(wanted, indexed))


async def _fetch(connection: AsyncConnection, statement: Select[Any]) -> Sequence[Row[Any]]:
    rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
    return rows


def _has_only_words(wanted: Search) -> bool:
    """True if `file_search` alone decides which files are on the page."""
    others = (wanted.filename, wanted.tags, wanted.metadata, wanted.content_type, wanted.owner)
    sizes = (wanted.size_min, wanted.size_max)
    return wanted.q is not None and wanted.sort == "created_at" and not any(others) and sizes == (None, None)


def _rows_to_walk(wanted: Search, found: int, files: float) -> int:
    """Rows in order that probably fill the page; 0 if all matches in the index are fewer. `found` of the sample match."""
    if not found:
        return 0
    share = found / SAMPLE_ROWS
    walk = WALK_MARGIN * wanted.limit / share
    cost = WALK_COST if wanted.sort in TIMES and not _has_only_words(wanted) else 1.0
    return int(walk) if walk * cost < share * files else 0


def ordered_statement(wanted: Search) -> Select[Any]:
    """All conditions are on columns with ordered indexes and good statistics: PostgreSQL chooses well."""
    conditions = [*_conditions(wanted, files), *_after(wanted, files)]
    return _sorted(wanted, select(*_columns(wanted, files)).where(*conditions), files)


def walk_statement(wanted: Search, rows: int) -> Select[Any]:
    """Among the next rows in order. A full page is the right one; a shorter one says nothing.

    OFFSET 0 keeps PostgreSQL from reading all matches of a word for these few rows.
    """
    bounds = [condition for name, condition in _ranges(wanted, files) if name == wanted.sort]
    inner = select(files).where(*bounds, *_after(wanted, files)).order_by(*_order(wanted, files)).limit(rows)
    near = inner.subquery("near")
    statement = select(*_columns(wanted, near))
    if wanted.q is not None:
        words = select(file_search.c.file_id).where(file_search.c.file_id == near.c.file_id, _has_words(wanted.q))
        statement = statement.join(words.offset(literal_column("0")).lateral("words"), true())
    return _sorted(wanted, statement.where(*_conditions(wanted, near)), near)


def words_statement(wanted: Search) -> Select[Any]:
    """All matches of `q`, sorted without reading `files`, then the rows of the first ones: null for a deleted file."""
    conditions = [_has_words(wanted.q), *(one for _, one in _ranges(wanted, file_search)), *_after(wanted, file_search)]
    matching = select(file_search.c.file_id, file_search.c.created_at).where(*conditions)
    inner = matching.offset(literal_column("0")).subquery("matching")
    first = select(inner).order_by(*_order(wanted, inner)).limit(wanted.limit + 1 + SPARE_ROWS).subquery("first")
    joined = select(files.c.attributes, first.c.file_id, first.c.created_at.label("sort_value")).join_from(
        first, files, (files.c.file_id == first.c.file_id) & (files.c.state == AVAILABLE), isouter=True
    )
    return joined.order_by(*_order(wanted, first))


def matching_statement(wanted: Search, indexed: Indexed) -> Select[Any]:
    """All matches, then sorted. OFFSET 0 keeps PostgreSQL from walking along the order instead."""
    conditions = [*_conditions(wanted, files), *_candidates(wanted, indexed), *_after(wanted, files)]
    inner = _with_words(wanted, select(files)).where(*conditions)
    matching = inner.offset(literal_column("0")).subquery("matching")
    return _sorted(wanted, select(*_columns(wanted, matching)), matching)


def count_statement(wanted: Search, indexed: Indexed) -> Select[Any]:
    counted = _with_words(wanted, select(func.count()).select_from(files))
    return counted.where(*_conditions(wanted, files), *_candidates(wanted, indexed))


def _columns(wanted: Search, source: FromClause) -> Sequence[ColumnElement[Any]]:
    return source.c.attributes, source.c.file_id, source.c[wanted.sort].label("sort_value")


def _sorted(wanted: Search, statement: Select[Any], source: FromClause) -> Select[Any]:
    return statement.order_by(*_order(wanted, source)).limit(wanted.limit + 1)


def _order(wanted: Search, source: FromClause) -> Sequence[ColumnElement[Any]]:
    columns = source.c[wanted.sort], source.c.file_id
    return [one.desc() for one in columns] if wanted.descending else columns


def _with_words(wanted: Search, statement: Select[Any]) -> Select[Any]:
    if wanted.q is None:
        return statement
    return statement.join_from(files, file_search, (file_search.c.file_id == files.c.file_id) & _has_words(wanted.q))


def _has_words(query: TextQuery | None) -> ColumnElement[bool]:
    return file_search.c.words.bool_op("@@")(_tsquery(query))


def _conditions(wanted: Search, source: FromClause) -> list[ColumnElement[bool]]:
    """All but that of `q`."""
    c = source.c
    conditions: list[ColumnElement[bool]] = [c.state == AVAILABLE]
    if wanted.content_type is not None:
        conditions.append(func.split_part(c.content_type, ";", 1) == essence_of(wanted.content_type))
        if ";" in wanted.content_type:
            conditions.append(c.content_type == wanted.content_type)
    if wanted.owner is not None:
        conditions.append(c.owner == wanted.owner)
    if wanted.filename is not None:
        conditions.append(c.filename.icontains(wanted.filename, autoescape=True))
    if wanted.tags:
        conditions.append(c.tags.contains(list(wanted.tags)))
    conditions += [_metadata_is(c.metadata, key, value) for key, value in wanted.metadata.items()]
    return conditions + [condition for _, condition in _ranges(wanted, source)]


def _ranges(wanted: Search, source: FromClause) -> list[tuple[str, ColumnElement[bool]]]:
    """With the name of the column."""
    created_at = source.c.created_at
    ranges: list[tuple[str, ColumnElement[bool]]] = []
    if wanted.created_from is not None:
        ranges.append(("created_at", created_at >= wanted.created_from))
    if wanted.created_to is not None:
        ranges.append(("created_at", created_at < wanted.created_to))
    if wanted.size_min is not None:
        ranges.append(("size_bytes", source.c.size_bytes >= wanted.size_min))
    if wanted.size_max is not None:
        ranges.append(("size_bytes", source.c.size_bytes <= wanted.size_max))
    return ranges


def _tsquery(query: TextQuery | None) -> ColumnElement[Any]:
    if query is None or query == TextQuery():
        return cast("", TSQUERY)
    parts: list[ColumnElement[Any]] = []
    if query.stemmed:
        parts.append(_stems(query.stemmed))
    if query.last_stemmed:
        beginning: ColumnElement[Any] = cast(query.last_prefix, TSQUERY)
        if query.last_before:
            beginning = _stems(query.last_before).op("&&")(beginning)
        parts.append(_stems(query.last_stemmed).op("||")(beginning))
    return parts[0] if len(parts) == 1 else parts[0].op("&&")(parts[1])


def _stems(words: str) -> ColumnElement[Any]:
    return func.to_tsquery(literal_column("'artstore'"), words)


def _metadata_is(metadata: ColumnElement[Any], key: str, value: str) -> ColumnElement[bool]:
    """Containment, which the index supports. A query string has no types: 5 finds "5" and 5, true finds "true" and true."""
    readings: list[Any] = [value]
    try:
        typed = orjson.loads(value)
    except orjson.JSONDecodeError:
        typed = value
    if isinstance(typed, bool | int | float) or typed is None:
        readings.append(typed)
    return or_(*(metadata.contains({key: reading}) for reading in readings))


def _candidates(wanted: Search, indexed: Indexed) -> list[ColumnElement[bool]]:
    """Files whose name has all trigrams of the wanted part, and all that the index does not have yet: a late index hides
    no file. Empty if all files are candidates."""
    grams = grams_of(wanted.filename) if wanted.filename else []
    if not grams or indexed is None or not indexed.complete:
        return []
    found = select(file_search.c.file_id).where(file_search.c.name_grams.contains(cast(grams, ARRAY(Integer))))
    done = tuple_(literal(indexed.txid), literal(indexed.position))
    late = select(changes.c.file_id).where(tuple_(changes.c.txid, changes.c.position) > done)
    return [files.c.file_id.in_(union_all(found, late))]


def _after(wanted: Search, source: FromClause) -> list[ColumnElement[bool]]:
    """After the last file of the previous page, in order."""
    if wanted.cursor is None:
        return []
    value = parse_rfc3339(str(wanted.cursor.value)) if wanted.sort in TIMES else wanted.cursor.value
    sorted_by = source.c[wanted.sort]
    here = tuple_(sorted_by, source.c.file_id)
    there = tuple_(literal(value, sorted_by.type), literal(wanted.cursor.file_id, source.c.file_id.type))
    return [here < there if wanted.descending else here > there]


def _next_cursor(wanted: Search, last: Row[Any]) -> str:
    value: SortValue | datetime = last.sort_value
    moment = rfc3339(value) if isinstance(value, datetime) else value
    return cursor_after(wanted, moment, str(last.file_id))
