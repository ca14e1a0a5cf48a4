"""The query string of a list: every parameter is understood or refused, none is ignored."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from artstore.clock import parse_rfc3339
from artstore.contracts.media_type import canonical_type
from artstore.errors import InvalidFields

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_VALUE_BYTES = 1024
MAX_FILTERS = 32
DEFAULT_SORT = "created_at"
MAX_SIZE = 2**63 - 1
METADATA = "metadata."
MOMENTS = ("created_at", "updated_at")
SORTS = (*MOMENTS, "filename", "size_bytes")

SortValue = str | int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the last page ended: the sort value and id of its last file. Files put meanwhile move nothing."""

    value: SortValue
    file_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for. Tags and metadata must all be there; times are inclusive from, exclusive to."""

    filename: str | None = None
    tags: tuple[str, ...] = ()
    content_type: str | None = None
    owner: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    created_from: datetime | None = None
    created_to: datetime | None = None
    size_min: int | None = None
    size_max: int | None = None
    sort: str = DEFAULT_SORT
    descending: bool = True
    limit: int = DEFAULT_LIMIT
    cursor: Cursor | None = None


def parse(parameters: Iterable[tuple[str, str]]) -> Search:
    """Raises InvalidFields with the names of all parameters that are wrong."""
    found: dict[str, Any] = {"tags": [], "metadata": {}}
    problems: dict[str, str] = {}
    seen: set[str] = set()
    for number, (name, value) in enumerate(parameters):
        if number >= MAX_FILTERS:
            problems[name] = f"more than {MAX_FILTERS} parameters"
            break
        try:
            if name in seen and name != "tag":
                raise ValueError("given twice")
            seen.add(name)
            _take(name, value, found)
        except ValueError as error:
            problems[name] = str(error)
    if not problems and "cursor" in found:
        _place(found, problems)
    if problems:
        said = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise InvalidFields(said, fields=sorted(problems))
    found["tags"] = tuple(found["tags"])
    return Search(**found)


def encode_cursor(search: Search, value: SortValue, file_id: str) -> str:
    """Opaque to the caller. It says what order it belongs to, so that it is not taken for another."""
    inside = orjson.dumps([_order(search.sort, search.descending), value, file_id])
    return base64.urlsafe_b64encode(inside).decode().rstrip("=")


def _take(name: str, value: str, found: dict[str, Any]) -> None:
    for text in (name, value):  # a name may be a key of the metadata: it goes the same way as a value
        if len(text.encode()) > MAX_VALUE_BYTES or "\x00" in text:
            raise ValueError(f"longer than {MAX_VALUE_BYTES} bytes or with U+0000 in it")
    value = unicodedata.normalize("NFC", value)
    name = unicodedata.normalize("NFC", name)
    if name == "tag":
        found["tags"].append(value)
    elif name.startswith(METADATA) and len(name) > len(METADATA):
        found["metadata"][name.removeprefix(METADATA)] = value
    elif name == "sort":
        found["descending"], found["sort"] = value.startswith("-"), value.removeprefix("-")
        if found["sort"] not in SORTS:
            raise ValueError("one of " + ", ".join(SORTS) + ", or one of them with - before it")
    elif name in _READERS:
        found[name] = _READERS[name](value)
    elif name == "q":
        raise ValueError("full text is not searched yet; filename finds a part of the name")
    else:
        raise ValueError("not known here")


def _place(found: dict[str, Any], problems: dict[str, str]) -> None:
    """Replace the cursor's text by what it says, checked against the order asked for."""
    order, value, file_id = found["cursor"]
    sort, descending = found.get("sort", DEFAULT_SORT), found.get("descending", True)
    if order != _order(sort, descending):
        problems["cursor"] = f"belongs to the order {order}"
        return
    found["cursor"] = Cursor(value, file_id)


def _order(sort: str, descending: bool) -> str:
    return f"-{sort}" if descending else sort


def _text(value: str) -> str:
    if not value:
        raise ValueError("empty")
    return value


def _media_type(value: str) -> str:
    try:
        return canonical_type(value)
    except InvalidFields as error:
        raise ValueError("a media type such as application/pdf") from error


def _moment(value: str) -> datetime:
    # "+" in a query string is a blank: 2026-01-01T00:00:00+03:00 often comes unescaped
    try:
        return parse_rfc3339(value.replace(" ", "+") if value.count(" ") == 1 and "T" in value else value)
    except ValueError as error:
        raise ValueError("an RFC 3339 time with an offset, like 2026-01-01T00:00:00Z") from error


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if (
            not (value.isascii() and value.isdigit() and len(value) <= len(str(most)))
            or not least <= int(value) <= most
        ):
            raise ValueError(f"a number from {least} to {most}")
        return int(value)

    return read


def _cursor(value: str) -> tuple[str, SortValue, str]:
    try:
        inside = orjson.loads(base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True))
        order, sort_value, file_id = inside
        if str(UUID(file_id)) != file_id:
            raise ValueError("not canonical")
        return order, _sort_value(order.removeprefix("-"), sort_value), file_id
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError("none that was given out here") from error


def _sort_value(sort: str, value: Any) -> SortValue:
    """Checked as if it came from anybody, which it did."""
    if sort == "size_bytes":
        if type(value) is not int or not 0 <= value <= MAX_SIZE:
            raise ValueError("no size")
        return value
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError("no text")
    if sort in MOMENTS:
        parse_rfc3339(value)
    return value


_READERS: dict[str, Callable[[str], Any]] = {
    "filename": _text,
    "content_type": _media_type,
    "owner": _text,
    "created_from": _moment,
    "created_to": _moment,
    "size_min": _number(0, MAX_SIZE),
    "size_max": _number(0, MAX_SIZE),
    "limit": _number(1, MAX_LIMIT),
    "cursor": _cursor,
}
