"""What the OpenAPI document says of these endpoints."""

from __future__ import annotations

from typing import Any

from artstore.contracts.schemas import RECORD

from ..search.feed import DEFAULT_LIMIT as FEED_DEFAULT
from ..search.feed import MAX_LIMIT as FEED_LIMIT
from ..search.feed import MAX_WAIT_S
from ..search.parse import DEFAULT_LIMIT, DEFAULT_SORT, MAX_LIMIT, SORTS

_TEXT = {"type": "string"}
_SOURCE = {
    "X-ArtStore-Source": {"description": "The level that answered", "schema": _TEXT},
    "X-ArtStore-Degraded": {"description": "What is away, when something is", "schema": _TEXT},
}
_BYTES = {"*/*": {"schema": {"type": "string", "format": "binary"}}}


def _query(name: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema or _TEXT}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": _TEXT}


def _answer(description: str, **content: Any) -> dict[str, Any]:
    return {"description": description, "headers": _SOURCE, **({"content": content["content"]} if content else {})}


_SIZE = {"type": "integer", "minimum": 0}
_MOMENT = {"type": "string", "format": "date-time"}
_ORDERS = [order for sort in SORTS for order in (sort, f"-{sort}")]

LISTING: dict[str, Any] = {
    "get": {
        "tags": ["files"],
        "summary": "Files by their attributes, in pages that stay where they are while files are put",
        "parameters": [
            _query("filename", "Part of the name, in any case of letters"),
            _query("tag", "May be given several times: all of them"),
            _query(
                "content_type",
                "Type and subtype, whatever parameters the file's type has; with parameters exactly these",
            ),
            _query("owner", "The client_id that uploaded it"),
            {
                **_query("metadata", "metadata.KEY=VALUE: the value under KEY, as text, number, true, false or null"),
                "style": "form",
                "explode": True,
                "schema": {"type": "object", "maxProperties": 0},
            },
            _query("created_from", "Inclusive", _MOMENT),
            _query("created_to", "Exclusive", _MOMENT),
            _query("size_min", "Bytes, inclusive", _SIZE),
            _query("size_max", "Bytes, inclusive", _SIZE),
            _query(
                "sort", "- before it: descending", {"type": "string", "enum": _ORDERS, "default": f"-{DEFAULT_SORT}"}
            ),
            _query("limit", "", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}),
            _query("cursor", "`next_cursor` of the page before"),
        ],
        "responses": {
            "200": _answer(
                "A page; next_cursor is null on the last one",
                content={
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["items", "next_cursor"],
                            "properties": {
                                "items": {"type": "array", "items": RECORD},
                                "next_cursor": {"type": ["string", "null"]},
                            },
                        }
                    }
                },
            )
        },
    }
}

_CHANGE = {
    "type": "object",
    "required": ["change", "file_id", "revision", "at", "file"],
    "properties": {
        "change": {"type": "string", "enum": ["created", "updated", "deleted"]},
        "file_id": {"type": "string", "format": "uuid"},
        "revision": {"type": "integer", "minimum": 1, "description": "Of a deleted file its last one"},
        "at": _MOMENT,
        "file": {"oneOf": [RECORD, {"type": "null"}], "description": "The record as it is now; null when it is gone"},
    },
}

CHANGES: dict[str, Any] = {
    "get": {
        "tags": ["files"],
        "summary": "Every creation, change and deletion, once and in an order that never changes",
        "description": (
            "For programs that follow the store: ask again with `next_cursor`, also after an empty answer. Without "
            "`since`: all that is kept. 410 `cursor_expired`: list the files, then start without `since`."
        ),
        "operationId": "list_changes",
        "parameters": [
            _query("since", "`next_cursor` of the answer before"),
            _query("limit", "", {"type": "integer", "minimum": 1, "maximum": FEED_LIMIT, "default": FEED_DEFAULT}),
            _query(
                "wait_s",
                "Seconds to wait for a change when there is none",
                {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0},
            ),
        ],
        "responses": {
            "200": _answer(
                "Changes, and where to go on",
                content={
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["items", "next_cursor"],
                            "properties": {"items": {"type": "array", "items": _CHANGE}, "next_cursor": _TEXT},
                        }
                    }
                },
            )
        },
    }
}

ATTRIBUTES: dict[str, Any] = {
    "get": {
        "tags": ["files"],
        "summary": "A file's attributes; the ETag is the revision",
        "parameters": [_header("If-None-Match", "304 when the revision is still this one")],
        "responses": {
            "200": _answer("The record", content={"application/json": {"schema": RECORD}}),
            "304": _answer("Not changed"),
        },
    }
}

_CONDITIONS = [
    _header("If-Match", "412 unless the bytes are still these"),
    _header("If-None-Match", "304 when the bytes are still these"),
    _header("If-Modified-Since", "304 when not changed since; ignored beside If-None-Match"),
    _header("If-Unmodified-Since", "412 when changed since; ignored beside If-Match"),
]

CONTENT: dict[str, Any] = {
    "get": {
        "tags": ["files"],
        "summary": "A file's bytes, whole or one range; the strong ETag is the checksum",
        "parameters": [
            _header("Range", "One range of bytes; several, or a malformed one, are ignored"),
            _header("If-Range", "The ETag (or date) under which the range is wanted, else the whole file"),
            *_CONDITIONS,
        ],
        "responses": {
            "200": _answer("The file", content=_BYTES),
            "206": _answer("The range", content=_BYTES),
            "304": _answer("Not changed"),
        },
    },
    "head": {
        "tags": ["files"],
        "summary": "The header fields of the file's bytes",
        "parameters": _CONDITIONS,
        "responses": {"200": _answer("As GET, without the body"), "304": _answer("Not changed")},
    },
}
