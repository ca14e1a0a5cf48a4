"""Lists files from the catalog, page by page.

Keyset pagination: a file uploaded or deleted between two pages does not shift the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, Select, func, literal, or_, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from artstore.catalog.tables import AVAILABLE, files
from artstore.clock import parse_rfc3339, rfc3339
from artstore.contracts.media_type import essence_of
from artstore.database import Database
from artstore.database_errors import DatabaseBusy
from artstore.errors import DATABASE, Unavailable

from .parse import TIMES, Cursor, Search, SortValue, cursor_after


@dataclass(frozen=True, slots=True)
class Page:
    """`items` are attr.json documents, byte for byte."""

    items: Sequence[bytes]
    next_cursor: str | None


async def search(database: Database, wanted: Search) -> Page:
    """Raises Unavailable without the catalog, because the elements cannot answer in one order."""
    try:
        async with database.begin(may_be_slow=True) as connection:
            rows = (await connection.execute(statement(wanted))).all()
    except DatabaseBusy:
        raise  # only this query is too slow: the database is not unavailable
    except (SQLAlchemyError, Unavailable) as error:
        retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else None
        raise Unavailable("the catalog cannot be read", away=DATABASE, retry_after_s=retry_after_s) from error
    more = len(rows) > wanted.limit
    rows = rows[: wanted.limit]
    return Page([row.attributes.encode() for row in rows], _next_cursor(wanted, rows[-1]) if more else None)


def statement(wanted: Search) -> Select[Any]:
    """Selects one more row than the page has, to see whether there is a next page."""
    column = files.c[wanted.sort]
    order = [column.desc(), files.c.file_id.desc()] if wanted.descending else [column, files.c.file_id]
    chosen = select(files.c.attributes, files.c.file_id, column.label("sort_value")).where(*_conditions(wanted))
    return chosen.order_by(*order).limit(wanted.limit + 1)


def _conditions(wanted: Search) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [files.c.state == AVAILABLE]
    if wanted.content_type is not None:
        conditions.append(func.split_part(files.c.content_type, ";", 1) == essence_of(wanted.content_type))
        if ";" in wanted.content_type:
            conditions.append(files.c.content_type == wanted.content_type)
    if wanted.owner is not None:
        conditions.append(files.c.owner == wanted.owner)
    if wanted.filename is not None:
        conditions.append(files.c.filename.icontains(wanted.filename, autoescape=True))
    if wanted.tags:
        conditions.append(files.c.tags.contains(list(wanted.tags)))
    conditions += [_metadata_is(key, value) for key, value in wanted.metadata.items()]
    if wanted.created_from is not None:
        conditions.append(files.c.created_at >= wanted.created_from)
    if wanted.created_to is not None:
        conditions.append(files.c.created_at < wanted.created_to)
    if wanted.size_min is not None:
        conditions.append(files.c.size_bytes >= wanted.size_min)
    if wanted.size_max is not None:
        conditions.append(files.c.size_bytes <= wanted.size_max)
    if wanted.cursor is not None:
        conditions.append(_after(wanted, wanted.cursor))
    return conditions


def _metadata_is(key: str, value: str) -> ColumnElement[bool]:
    """Containment, which the index supports. A query string has no types: 5 finds "5" and 5, true finds "true" and true."""
    readings: list[Any] = [value]
    try:
        typed = orjson.loads(value)
    except orjson.JSONDecodeError:
        typed = value
    if isinstance(typed, bool | int | float) or typed is None:
        readings.append(typed)
    return or_(*(files.c.metadata.contains({key: reading}) for reading in readings))


def _after(wanted: Search, cursor: Cursor) -> ColumnElement[bool]:
    value = parse_rfc3339(str(cursor.value)) if wanted.sort in TIMES else cursor.value
    column = files.c[wanted.sort]
    here = tuple_(column, files.c.file_id)
    there = tuple_(literal(value, column.type), literal(cursor.file_id, files.c.file_id.type))
    return here < there if wanted.descending else here > there


def _next_cursor(wanted: Search, last: Row[Any]) -> str:
    value: SortValue | datetime = last.sort_value
    text = rfc3339(value) if isinstance(value, datetime) else value
    return cursor_after(wanted, text, str(last.file_id))
