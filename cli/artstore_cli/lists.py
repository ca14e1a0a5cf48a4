"""Shows a list of the API: while its pages arrive, up to a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import Column, Output

if TYPE_CHECKING:
    from artstore_client import Listing, Record

SHOWN_AT_ONCE = 100
"""Rows whose widths in a table are chosen together."""
DEFAULT_LIMIT = 100

Limit = Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0: all.")]


def one_more(limit: int) -> int | None:
    """The limit to ask for, which shows whether there are more. None: all."""
    return limit + 1 if limit else None


async def show_list(
    out: Output,
    listing: Listing[Any],
    columns: Sequence[Column],
    limit: int,
    row: Callable[[dict[str, Any]], dict[str, Any]] = lambda item: item,
) -> None:
    """`listing` was asked for `one_more(limit)`. `row` adds members for people, which JSON does not show."""
    group = list[dict[str, Any]]()
    shown = 0

    def show() -> None:
        out.table(group, columns, header=shown == len(group))
        group.clear()

    record: Record
    async for record in listing:
        if limit and shown == limit:
            show()
            out.warning(f"only the first {limit}; --limit N shows more, --limit 0 all", code="more")
            break
        item = record.to_json()
        group.append(item if out.as_json else row(item))
        shown += 1
        if len(group) == SHOWN_AT_ONCE:
            show()
    if group or not shown:
        show()
    if listing.degraded:
        away = ", ".join(listing.degraded)
        out.warning(f"the list may be incomplete: {away} is behind or away", code="degraded")
