"""The OpenAPI operations of the routes in `files.py` and of `make_link`."""

from __future__ import annotations

from typing import Any

from artstore.contracts.media_type import MAX_CONTENT_TYPE_BYTES
from artstore.contracts.schemas import MEDIA_TYPE, RECORD, component, page
from artstore.contracts.tokens import MAX_LINK_S
from artstore.http.idempotency_key import IDEMPOTENCY_KEY, keyed
from artstore.http.link_route import CONDITION_HEADERS, CONTENT_HEADERS, content_answers, head_answers
from artstore.http.lists import DEFAULT_LIMIT, MAX_LIMIT
from artstore.http.openapi import (
    CURSOR,
    TEXT_SCHEMA,
    UUID_SCHEMA,
    answer,
    header,
    object_schema,
    operation,
    query,
)

from ..search.feed import MAX_WAIT_S
from ..search.parse import DEFAULT_SORT, MAX_REPEATED, MAX_VALUE_CHARS, SORTS

ORIGIN_HEADERS = {
    "X-ArtStore-Source": "The level that answered",
    "X-ArtStore-Degraded": "The dependencies that are unavailable",
}
_SIZE = {"type": "integer", "format": "int64", "minimum": 0}
_TOTAL = {
    "total": {**_SIZE, "description": "With count=true: files on all pages"},
    "total_is_exact": {"type": "boolean", "description": "With count=true: false if more than `total` files match"},
}
_TEXT = {"type": "string", "maxLength": MAX_VALUE_CHARS, "pattern": "^[^\\x00]*$"}
_WORD = {**_TEXT, "minLength": 1}
_TIME = {"type": "string", "format": "date-time"}
_ORDERS = [order for sort in SORTS for order in (sort, f"-{sort}")]


def _integer(least: int, most: int, default: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


LIST_FILES = operation(
    operation_id="list_files",
    summary="Files by their attributes, in pages that do not shift while files are uploaded",
    parameters=[
        query(
            "q",
            "Words of name, tags and values of metadata, all of them, in any form; the last one may be incomplete. "
            '"A phrase", -excluded',
            _WORD,
        ),
        query("filename", "Part of the name, ignoring case", _WORD),
        query(
            "tag",
            "May be repeated: the file has all of them",
            {"type": "array", "maxItems": MAX_REPEATED, "items": _WORD},
        ),
        query(
            "content_type",
            "Type and subtype, with any parameters of the file; with parameters exactly these",
            {**_WORD, "maxLength": MAX_CONTENT_TYPE_BYTES, "pattern": MEDIA_TYPE},
        ),
        query("owner", "The client_id that uploaded the file", _WORD),
        {
            **query(
                "metadata",
                "Any number of parameters metadata.KEY=VALUE: the file's metadata have VALUE under KEY, as text, number, "
                "true, false or null",
                {
                    "type": "object",
                    "maxProperties": MAX_REPEATED,
                    "propertyNames": {"maxLength": MAX_VALUE_CHARS, "pattern": "^metadata\\.[^\\x00]+$"},
                    "additionalProperties": _TEXT,
                },
            ),
            "example": {},  # else the page /docs invents some
            "style": "form",
            "explode": True,
        },
        query("created_from", "Inclusive", _TIME),
        query("created_to", "Exclusive", _TIME),
        query("size_min", "Bytes, inclusive", _SIZE),
        query("size_max", "Bytes, inclusive", _SIZE),
        query(
            "sort", "With - before it: descending", {"type": "string", "enum": _ORDERS, "default": f"-{DEFAULT_SORT}"}
        ),
        query("limit", schema=_integer(1, MAX_LIMIT, DEFAULT_LIMIT)),
        query("cursor", "`next_cursor` of the previous page", CURSOR),
        query(
            "count",
            "Adds `total`, the number of files on all pages up to 10 000",
            {"type": "boolean", "default": False},
        ),
    ],
    responses={
        "200": answer(
            "A page; next_cursor is null on the last one",
            page("FilePage", RECORD, sometimes=_TOTAL),
            headers=ORIGIN_HEADERS,
        )
    },
)

_CHANGE = component(
    "Change",
    {
        "type": "object",
        "required": ["change", "file_id", "revision", "at", "file"],
        "properties": {
            "change": {"type": "string", "enum": ["created", "updated", "deleted"]},
            "file_id": UUID_SCHEMA,
            "revision": {"type": "integer", "minimum": 1, "description": "The last one, if the file is deleted"},
            "at": _TIME,
            "file": {"oneOf": [RECORD, {"type": "null"}], "description": "The present record; null if it is deleted"},
        },
    },
)
_CHANGES = component(
    "ChangePage",
    object_schema({"items": {"type": "array", "items": _CHANGE}, "next_cursor": TEXT_SCHEMA}),
)
LIST_CHANGES = operation(
    "Every creation, update and deletion, once and in an order that never changes",
    operation_id="list_changes",
    description=(
        "For programs that follow the store: ask again with `next_cursor`, also after an empty answer. Without `since`: all "
        "changes that are kept. 410 `cursor_expired`: list the files, then start without `since`."
    ),
    parameters=[
        query("since", "`next_cursor` of the previous answer", CURSOR),
        query("limit", schema=_integer(1, MAX_LIMIT, DEFAULT_LIMIT)),
        query("wait_s", "Seconds to wait for a change when there is none", _integer(0, MAX_WAIT_S, 0)),
    ],
    responses={"200": answer("Changes, and where to continue", _CHANGES, headers=ORIGIN_HEADERS)},
)

GET_FILE = operation(
    operation_id="get_file",
    summary="A file's attributes; the ETag is the revision",
    parameters=[header("If-None-Match", "304 when the file is still at this revision")],
    responses={
        "200": answer("The record", RECORD, headers=ORIGIN_HEADERS),
        "304": answer("Not changed", headers=ORIGIN_HEADERS),
    },
)

_DISPOSITION = query(
    "disposition",
    "`inline` lets a browser show images, audio, video, plain text and PDF; other types stay attachments",
    {"type": "string", "enum": ["attachment", "inline"], "default": "attachment"},
)
GET_CONTENT = operation(
    operation_id="get_content",
    summary="A file's bytes, whole or one range; the strong ETag is the checksum",
    parameters=[_DISPOSITION, *CONTENT_HEADERS],
    responses=content_answers(ORIGIN_HEADERS),
)
HEAD_CONTENT = operation(
    operation_id="head_content",
    summary="The headers of the file's bytes",
    parameters=[_DISPOSITION, *CONDITION_HEADERS],
    responses=head_answers(ORIGIN_HEADERS),
)

_LINK_REQUEST = component(
    "LinkRequest",
    object_schema(
        {},
        {
            "ttl_s": _integer(1, MAX_LINK_S, 3600),
            "disposition": {"type": "string", "enum": ["attachment", "inline"], "default": "attachment"},
        },
    )
    | {"additionalProperties": False},
)
_LINK = component("Link", object_schema({"url": {"type": "string", "format": "uri"}, "expires_at": _TIME}))
MAKE_LINK = operation(
    operation_id="make_link",
    summary="A link that reads the file's bytes without a token, until it expires",
    body={"application/json": _LINK_REQUEST},
    parameters=[IDEMPOTENCY_KEY],
    responses=keyed({"201": answer("The link", _LINK, headers=ORIGIN_HEADERS)}),
)
