"""`limit` and `cursor`, the same for every list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Query

from artstore.errors import Malformed

T = TypeVar("T")
C = TypeVar("C")

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=128)]
DEFAULT_LIMIT = 100


def parse_cursor(cursor: str | None, parse: Callable[[str], C]) -> C | None:
    """Raises Malformed for what no list has given out."""
    if cursor is None:
        return None
    try:
        return parse(cursor)
    except (ValueError, OverflowError) as error:
        raise Malformed("the cursor is not one of ours") from error


def cut(rows: list[T], limit: int, cursor_of: Callable[[T], Any]) -> tuple[list[T], str | None]:
    """`rows` were asked for with one more than `limit`: that one says whether there is a next page."""
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], str(cursor_of(rows[limit - 1]))
