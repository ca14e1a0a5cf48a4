"""OpenAPI schemas of a file's attributes and of a saga, for the modules that answer with them."""

from __future__ import annotations

from typing import Any

from artstore.contracts.files import MAX_FILENAME_BYTES, MAX_TAG_BYTES, MAX_TAGS
from artstore.contracts.sagas import SagaKind

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
"""attr.json always has all of these; later versions may add others."""

_TEXT: dict[str, Any] = {"type": "string"}
_TEXT_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}
SAGA: dict[str, Any] = {
    "type": "object",
    "description": "A saga: what has become of a change that waits for its element, or of an upload",
    "properties": {
        "saga_id": {"type": "string", "format": "uuid"},
        "kind": {"type": "string", "enum": [kind.value for kind in SagaKind]},
        "state": {**_TEXT, "description": "queued: waits; committed: done; refused: `problem` says why"},
        "file_id": {**_TEXT_OR_NULL, "description": "null: of a whole element"},
        "storage_element_id": _TEXT,
        "abandoned": {"type": "array", "items": _TEXT},
        "owner": _TEXT,
        "due_at": {**_TEXT_OR_NULL, "description": "the next try; null: finished"},
        "attempts": {"type": "integer", "minimum": 0},
        "reason": {**_TEXT, "description": "why an upload is undone"},
        "last_error": _TEXT,
        "begun_at": _TEXT,
        "updated_at": _TEXT,
        "age_s": {"type": "number"},
        "waits_for": {**_TEXT_OR_NULL, "description": "the change of the same file that is made before this one"},
        "wanted": {"type": ["object", "null"]},
        "problem": {"type": ["object", "null"], "description": "the problem document of a refusal"},
    },
}
SAGA["required"] = list(SAGA["properties"])
