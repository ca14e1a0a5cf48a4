"""The description of a new file, from query parameters or form fields to a checked NewFile.

Tags may be given several times; a `fields` dictionary holds them as one JSON array.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast, get_args
from urllib.parse import parse_qsl

import msgspec
import orjson

from artstore.clock import rfc3339
from artstore.contracts.files import (
    DEFAULT_TTL_DAYS,
    MAX_TAGS,
    MAX_TTL_DAYS,
    NewFile,
    Retention,
    check_filename,
    check_new_file,
    check_tags,
)
from artstore.contracts.media_type import DEFAULT_CONTENT_TYPE, canonical_type, essence_of
from artstore.errors import InvalidFields, Malformed
from artstore.http.json import check_keys, without_bom

from .file_type import guess_type

FIELDS = frozenset({"filename", "tags", "metadata", "retention", "ttl_days"})
MAX_FIELD_BYTES = 16 * 1024
"""attr.json has 4 KiB; escapes like \\u0434 and spaces can make its JSON four times as long."""
MAX_PARTS = 16 + MAX_TAGS
"""Fields of one request, each tag in one of its own."""
MAX_QUERY_BYTES = 3 * MAX_FIELD_BYTES
"""Percent-encoding takes three bytes for one."""

_DAYS = re.compile(r"[0-9]{1,4}")


def query_fields(query: bytes) -> dict[str, str]:
    """Raises InvalidFields for unknown or repeated parameters, Malformed unless they are UTF-8."""
    if not query:
        return {}
    if len(query) > MAX_QUERY_BYTES:
        raise InvalidFields(f"the query has {len(query)} bytes; the limit is {MAX_QUERY_BYTES}")
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARTS)
    except ValueError as error:
        raise Malformed("the query must be percent-encoded UTF-8") from error
    fields: dict[str, str] = {}
    for name, value in pairs:
        add_field(fields, name, value)
    return fields


def check_partial(fields: Mapping[str, str]) -> None:
    """Checks the fields that can be checked before the others are known. Raises InvalidFields."""
    _retention(fields)
    _json(fields, "metadata", dict[str, Any], {})


def add_field(fields: dict[str, str], name: str, value: str) -> None:
    """Raises InvalidFields for an unknown name, or one that is repeated and not `tags`."""
    if name not in FIELDS:
        raise InvalidFields(f"unknown field {name[:64]!r}; known are {', '.join(sorted(FIELDS))}", fields=[name[:64]])
    if name == "tags":
        tags = [*_json(fields, "tags", list[str], []), *_tags_in(value)]
        check_tags(tags)
        value = orjson.dumps(tags).decode()
    elif name in fields:
        raise InvalidFields(f"{name} is given twice", fields=[name])
    fields[name] = value


def _tags_in(text: str) -> list[str]:
    """The tags of one field: a JSON array, or plain text, which is one tag. A comma in plain text is refused, because it
    does not show whether one tag is meant or several."""
    text = without_bom(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")
    if text.lstrip()[:1] in ("[", "{", '"'):
        tags: list[str] = _json({"tags": text}, "tags", list[str], [])
        return tags
    if "," in text:
        raise InvalidFields("tags: repeat the field for each tag, or send a JSON array of strings", fields=["tags"])
    return [text] if text else []


def provisional(fields: Mapping[str, str], filename: str | None) -> tuple[Mapping[str, str], str | None]:
    """Fields and name that describe the file while more fields may come: `ttl_days` announces `retention=temporary`, and a
    field `filename` may replace a name that is not valid."""
    if "ttl_days" in fields and "retention" not in fields:
        fields = {**fields, "retention": "temporary"}
    try:
        check_filename(filename or "")
    except InvalidFields:
        filename = None
    return fields, filename


def new_file(
    fields: Mapping[str, str], *, filename: str, content_type: str | None, owner: str, now: datetime
) -> NewFile:
    """Raises InvalidFields. A `filename` field takes precedence over the body's own name. A type that is absent or says
    nothing (application/octet-stream) is guessed from the name."""
    retention = _retention(fields)
    filename = fields.get("filename", filename)
    is_stated = content_type is not None and essence_of(content_type) not in ("", DEFAULT_CONTENT_TYPE)
    new = NewFile(
        filename=filename,
        content_type=canonical_type(content_type) if content_type and is_stated else guess_type(filename),
        owner=owner,
        tags=_json(fields, "tags", list[str], []),
        metadata=_json(fields, "metadata", dict[str, Any], {}),
        retention=retention,
        expires_at=_expiry(fields, retention, now),
    )
    check_new_file(new)
    return new


def stated_retention(fields: Mapping[str, str]) -> Retention | None:
    """None when it is not stated. Raises InvalidFields."""
    return _retention(fields) if "retention" in fields else None


def _retention(fields: Mapping[str, str]) -> Retention:
    value = fields.get("retention", "permanent")
    if value not in get_args(Retention):
        raise InvalidFields(f"retention must be one of {', '.join(get_args(Retention))}", fields=["retention"])
    return cast(Retention, value)


def _expiry(fields: Mapping[str, str], retention: Retention, now: datetime) -> str | None:
    text = fields.get("ttl_days")
    if retention == "permanent":
        if text is not None:
            raise InvalidFields("ttl_days is allowed with retention=temporary only", fields=["ttl_days"])
        return None
    days = DEFAULT_TTL_DAYS if text is None else int(text) if _DAYS.fullmatch(text) else 0
    if not 1 <= days <= MAX_TTL_DAYS:
        raise InvalidFields(f"ttl_days must be a whole number from 1 to {MAX_TTL_DAYS}", fields=["ttl_days"])
    return rfc3339(now + timedelta(days=days))


def _json(fields: Mapping[str, str], name: str, type_: Any, absent: Any) -> Any:
    text = fields.get(name)
    if text is None:
        return absent
    try:
        content = without_bom(text.encode())
        check_keys(content)
        return msgspec.json.decode(content, type=type_)
    except Malformed as error:
        raise InvalidFields(f"{name}: {error.detail}", fields=[name]) from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidFields(f"{name} is not valid: {error}", fields=[name]) from error
