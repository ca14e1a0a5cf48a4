"""Request parameters that several resources share: `limit`, `cursor`, timestamps; and the pages of lists."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Query
from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import Response

from artstore.errors import InvalidFields
from artstore.http.json import page
from artstore.http.lists import MAX_LIMIT, timestamp

T = TypeVar("T")
C = TypeVar("C")

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Cursor = Annotated[str | None, Query(max_length=128)]
MAX_NAMED = 20


def _timestamp(value: Any) -> datetime:
    """Only text: pydantic would take a number for seconds since 1970."""
    return timestamp(value if isinstance(value, str) else "")


Timestamp = Annotated[datetime, BeforeValidator(_timestamp)]


def _whole(value: Any) -> Any:
    """pydantic would take "5" and true too."""
    if isinstance(value, str | bool):
        raise ValueError("must be a whole number")
    return value


WHOLE = BeforeValidator(_whole)
"""For an integer in a JSON body; 5.0 is one (JSON Schema 2020-12)."""


def allow_only(*names: str) -> Any:
    """A dependency that raises InvalidFields for query parameters other than `limit`, `cursor` and `names`,
    and for repeated ones."""
    known = {"limit", "cursor", *names}

    async def check(request: Request) -> None:
        given = [name for name, _ in request.query_params.multi_items()]
        wrong = sorted({name for name in given if name not in known or given.count(name) > 1})
        if wrong:
            raise InvalidFields(f"unknown or repeated: {', '.join(wrong)}"[:1000], fields=wrong[:MAX_NAMED])

    return Depends(check)


def parse_cursor(cursor: str | None, parse: Callable[[str], C]) -> C | None:
    """Raises InvalidFields for a cursor that no list has returned, as for any other wrong parameter."""
    if cursor is None:
        return None
    try:
        return parse(cursor)
    except (ValueError, OverflowError) as error:
        raise InvalidFields("cursor: must be a next_cursor of this list", fields=["cursor"]) from error


def uuid_cursor(cursor: str) -> UUID:
    """Raises ValueError unless the text is a UUID as this service writes it."""
    value = UUID(cursor)
    if str(value) != cursor:
        raise ValueError("a different spelling of a UUID")
    return value


def answer_page(
    rows: list[T], limit: int, cursor_of: Callable[[T], Any], view: Callable[[T], Any] = lambda row: row
) -> Response:
    """One page of a list. `rows` holds one row more than `limit` when there is a next page."""
    shown, next_cursor = split_page(rows, limit, cursor_of)
    return page([view(row) for row in shown], next_cursor)


def split_page(rows: list[T], limit: int, cursor_of: Callable[[T], Any]) -> tuple[list[T], str | None]:
    """The rows of this page, and the cursor of the next page if there is one."""
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], str(cursor_of(rows[limit - 1]))
