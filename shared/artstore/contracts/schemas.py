"""A file's attributes for the OpenAPI documents of the modules that answer with them."""

from __future__ import annotations

from typing import Any

from artstore.contracts.files import MAX_FILENAME_BYTES, MAX_TAG_BYTES, MAX_TAGS

FILENAME: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_FILENAME_BYTES}
TAGS: dict[str, Any] = {
    "type": "array",
    "maxItems": MAX_TAGS,
    "items": {"type": "string", "minLength": 1, "maxLength": MAX_TAG_BYTES},
}
METADATA: dict[str, Any] = {"type": "object"}

RECORD: dict[str, Any] = {
    "type": "object",
    "description": "The file's attr.json",
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
RECORD["required"] = list(RECORD["properties"])
"""attr.json always has all of them; later versions may add others."""
