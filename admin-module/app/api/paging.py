"""`limit` and `cursor`, the same for every list, and no parameter that is not understood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query
from starlette.requests import Request

from artstore.errors import InvalidFields, Malformed

T = TypeVar("T")
C = TypeVar("C")

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=128)]
DEFAULT_LIMIT = 100
MAX_NAMED = 20


def known_only(*names: str) -> Any:
    """A dependency that raises InvalidFields for query parameters other than the page's and `names`, and for those given
    twice."""
    known = {"limit", "cursor", *names}

    async def check(request: Request) -> None:
        given = [name for name, _ in request.query_params.multi_items()]
        wrong = sorted({name for name in given if name not in known or given.count(name) > 1})
        if wrong:
            raise InvalidFields(f"unknown or repeated: {', '.join(wrong)}"[:1000], fields=wrong[:MAX_NAMED])

    return Depends(check)


def parse_cursor(cursor: str | None, parse: Callable[[str], C]) -> C | None:
    """Raises Malformed for what no list has given out."""
    if cursor is None:
        return None
    try:
        return parse(cursor)
    except (ValueError, OverflowError) as error:
        raise Malformed("the cursor was not issued by this service") from error


def cut(rows: list[T], limit: int, cursor_of: Callable[[T], Any]) -> tuple[list[T], str | None]:
    """`rows` were asked for with one more than `limit`: that one says whether there is a next page."""
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], str(cursor_of(rows[limit - 1]))
