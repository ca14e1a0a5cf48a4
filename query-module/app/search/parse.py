"""Query strings of lists: every parameter is read or refused, none is ignored. Cursors are base64 JSON, opaque to clients."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from artstore.clock import parse_rfc3339
from artstore.contracts.files import is_id
from artstore.contracts.media_type import MAX_CONTENT_TYPE_BYTES, canonical_type
from artstore.errors import InvalidFields
from artstore.http import lists

from .text_query import TextQuery, parse_text

MAX_VALUE_CHARS = 1024
MAX_REPEATED = 32
"""Tags, and parameters metadata.KEY."""
DEFAULT_SORT = "created_at"
MAX_SIZE = 2**63 - 1
METADATA = "metadata."
NOT_OURS = "must be a next_cursor of this list"
TIMES = ("created_at", "updated_at")
SORTS = (*TIMES, "filename", "size_bytes")

SortValue = str | int


@dataclass(frozen=True, slots=True)
class Cursor:
    """The sort value and id of the last file of the previous page."""

    value: SortValue
    file_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The file has all tags and metadata; times are inclusive from, exclusive to."""

    q: TextQuery | None = None
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
    limit: int = lists.DEFAULT_LIMIT
    cursor: Cursor | None = None
    count: bool = False


def parse(parameters: Iterable[tuple[str, str]]) -> Search:
    """Raises InvalidFields that names all wrong parameters."""
    found: dict[str, Any] = {"tags": [], "metadata": {}}
    problems: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in parameters:
        try:
            if name in seen and name != "tag":
                raise ValueError("given twice")
            seen.add(name)
            _read(name, value, found)
        except ValueError as error:
            problems[name] = str(error)
    if not problems and "cursor" in found:
        _check_cursor(found, problems)
    lists.refuse(problems)
    found["tags"] = tuple(found["tags"])
    return Search(**found)


def encode_cursor(content: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(content)).decode().rstrip("=")


def decode_cursor(cursor: str) -> Any:
    """Raises ValueError. The content may be forged."""
    try:
        content = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if encode_cursor(content) != cursor:
            raise ValueError("a different spelling of a cursor")
    except (ValueError, TypeError) as error:
        raise ValueError(NOT_OURS) from error
    return content


def cursor_after(search: Search, value: SortValue, file_id: str) -> str:
    """`value` and `file_id` are those of the page's last file. The cursor names its order, which must not change."""
    return encode_cursor([_order(search.sort, search.descending), value, file_id])


def _read(name: str, value: str, found: dict[str, Any]) -> None:
    for text in (name, value):  # a name may hold a key of the metadata
        if len(text) > MAX_VALUE_CHARS or "\x00" in text:
            raise ValueError(f"longer than {MAX_VALUE_CHARS} characters, or contains U+0000")
    value = unicodedata.normalize("NFC", value)
    name = unicodedata.normalize("NFC", name)
    if name == "tag":
        found["tags"].append(_text(value))
    elif name.startswith(METADATA) and len(name) > len(METADATA):
        found["metadata"][name.removeprefix(METADATA)] = value
    elif name == "sort":
        found["descending"], found["sort"] = value.startswith("-"), value.removeprefix("-")
        if found["sort"] not in SORTS:
            raise ValueError("must be one of " + ", ".join(SORTS) + ", or one of them with - before it")
    elif name in _READERS:
        found[name] = _READERS[name](value)
    else:
        raise ValueError("unknown parameter")
    if max(len(found["tags"]), len(found["metadata"])) > MAX_REPEATED:
        raise ValueError(f"given more than {MAX_REPEATED} times")


def _check_cursor(found: dict[str, Any], problems: dict[str, str]) -> None:
    """Replaces the decoded cursor by a Cursor, or adds the problem that it belongs to a different order."""
    order, value, file_id = found["cursor"]
    sort, descending = found.get("sort", DEFAULT_SORT), found.get("descending", True)
    if order != _order(sort, descending):
        problems["cursor"] = f"belongs to sort={order}"
        return
    found["cursor"] = Cursor(value, file_id)


def _order(sort: str, descending: bool) -> str:
    return f"-{sort}" if descending else sort


def _text(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


def _media_type(value: str) -> str:
    if len(value) > MAX_CONTENT_TYPE_BYTES:
        raise ValueError(f"longer than {MAX_CONTENT_TYPE_BYTES} bytes")
    try:
        return canonical_type(value)
    except InvalidFields as error:
        raise ValueError("must be a media type such as application/pdf") from error


def _cursor(value: str) -> tuple[str, SortValue, str]:
    try:
        order, sort_value, file_id = decode_cursor(value)
        if not is_id(file_id):
            raise ValueError("not canonical")
        return order, _sort_value(order.removeprefix("-"), sort_value), file_id
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(NOT_OURS) from error


def _sort_value(sort: str, value: Any) -> SortValue:
    """Checked, because a client may forge it."""
    if sort == "size_bytes":
        if type(value) is not int or not 0 <= value <= MAX_SIZE:
            raise ValueError("must be a size")
        return value
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError("must be text")
    if sort in TIMES:
        parse_rfc3339(value)
    return value


_READERS: dict[str, Callable[[str], Any]] = {
    "q": parse_text,
    "filename": _text,
    "content_type": _media_type,
    "owner": _text,
    "created_from": lists.timestamp,
    "created_to": lists.timestamp,
    "size_min": lists.integer(0, MAX_SIZE),
    "size_max": lists.integer(0, MAX_SIZE),
    "limit": lists.limit,
    "cursor": _cursor,
    "count": lists.flag,
}
