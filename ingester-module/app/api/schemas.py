"""Pieces of the OpenAPI document that several routes share."""

from __future__ import annotations

from typing import Any

from artstore.contracts.files import (
    DEFAULT_TTL_DAYS,
    MAX_FILENAME_BYTES,
    MAX_TAG_BYTES,
    MAX_TAGS,
    MAX_TTL_DAYS,
)

FILENAME: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_FILENAME_BYTES}
TAGS: dict[str, Any] = {
    "type": "array",
    "maxItems": MAX_TAGS,
    "items": {"type": "string", "minLength": 1, "maxLength": MAX_TAG_BYTES},
}
METADATA: dict[str, Any] = {"type": "object"}

FIELD_SCHEMAS: dict[str, Any] = {
    "filename": FILENAME,
    "tags": {"type": "string", "contentMediaType": "application/json", "description": "JSON array of strings"},
    "metadata": {"type": "string", "contentMediaType": "application/json", "description": "JSON object"},
    "retention": {"type": "string", "enum": ["permanent", "temporary"], "default": "permanent"},
    "ttl_days": {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_TTL_DAYS,
        "description": f"with retention=temporary only; {DEFAULT_TTL_DAYS} by default",
    },
}

DIGEST_HEADERS: list[dict[str, Any]] = [
    {"name": name, "in": "header", "schema": {"type": "string"}}
    for name in ("Content-Digest", "Repr-Digest", "Content-MD5")
]
IF_MATCH: dict[str, Any] = {
    "name": "If-Match",
    "in": "header",
    "schema": {"type": "string"},
    "description": 'the revision that is meant, "<revision>"; 412 when the file has another',
}

RECORD_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": [
        "schema_version",
        "file_id",
        "revision",
        "filename",
        "content_type",
        "size_bytes",
        "checksum",
        "storage_element_id",
        "created_at",
        "updated_at",
        "owner",
        "tags",
        "metadata",
        "retention",
        "expires_at",
    ],
    "properties": {
        "schema_version": {"type": "integer"},
        "file_id": {"type": "string", "format": "uuid"},
        "revision": {"type": "integer", "minimum": 1},
        "filename": {"type": "string"},
        "content_type": {"type": "string"},
        "size_bytes": {"type": "integer", "minimum": 0},
        "checksum": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
        "storage_element_id": {"type": "string"},
        "created_at": {"type": "string", "format": "date-time"},
        "updated_at": {"type": "string", "format": "date-time"},
        "owner": {"type": "string"},
        "tags": TAGS,
        "metadata": METADATA,
        "retention": {"type": "string", "enum": ["permanent", "temporary"]},
        "expires_at": {"type": ["string", "null"], "format": "date-time"},
    },
}
RECORD_ANSWER: dict[str, Any] = {
    "description": "The file's attr.json",
    "content": {"application/json": {"schema": RECORD_SCHEMA}},
}
