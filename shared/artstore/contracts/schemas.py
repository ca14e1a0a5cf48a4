"""OpenAPI schemas that several operations or modules share. Each is defined once under a name in COMPONENTS, which
generated clients make a type of; operations refer to it."""

from __future__ import annotations

from typing import Any, get_args

from artstore.contracts.files import MAX_FILENAME_BYTES, MAX_TAG_BYTES, MAX_TAGS, Retention
from artstore.contracts.sagas import SagaKind

COMPONENTS: dict[str, dict[str, Any]] = {}
"""By name. A document contains those that its operations refer to."""


def component(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Defines the schema under this name; returns the reference to it."""
    if COMPONENTS.setdefault(name, schema) != schema:
        raise ValueError(f"two schemas have the name {name}")
    return {"$ref": f"#/components/schemas/{name}"}


def page(
    name: str, items: dict[str, Any], *, sometimes: dict[str, Any] | None = None, **more: dict[str, Any]
) -> dict[str, Any]:
    """Defines the page of a list; `more` are further members that it always has, `sometimes` those that it may have."""
    properties = {
        "items": {"type": "array", "items": items},
        "next_cursor": {"type": ["string", "null"], "description": "`cursor` of the next page; null on the last one"},
        **more,
    }
    every = {**properties, **(sometimes or {})}
    return component(name, {"type": "object", "required": list(properties), "properties": every})


MEDIA_TYPE = "^[!#$&^_.+A-Za-z0-9-]+/[!#$&^_.+A-Za-z0-9-]+(;[ -~]*)?$"
"""A pattern for content types; parameters are looked at more closely."""
FILENAME: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_FILENAME_BYTES,
    "examples": ["Report.pdf"],
    "pattern": "^[^/\\\\\\x00-\\x1f\\x7f-\\x9f]+$",
    "description": f"At most {MAX_FILENAME_BYTES} bytes of UTF-8, without path separators and control characters",
}
TAGS: dict[str, Any] = {
    "type": "array",
    "maxItems": MAX_TAGS,
    "examples": [["contract"]],
    "items": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_TAG_BYTES,
        "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$",
        "description": f"At most {MAX_TAG_BYTES} bytes of UTF-8, without control characters",
    },
}
METADATA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": True,
    "examples": [{"number": "5"}],
    "description": "Any JSON object; a file's attributes take at most 4 KiB together",
}
RETENTION = component(
    "Retention",
    {
        "type": "string",
        "enum": list(get_args(Retention)),
        "examples": ["temporary"],
        "description": "`permanent`, the default, or `temporary`: may be changed and deleted, and expires",
    },
)
_RECORD: dict[str, Any] = {
    "type": "object",
    "description": "A file's attributes, as in its attr.json",
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
        "retention": RETENTION,
        "expires_at": {"type": ["string", "null"], "format": "date-time"},
    },
}
_RECORD["required"] = list(_RECORD["properties"])
RECORD = component("FileRecord", _RECORD)
"""attr.json always has all of these; later versions may add others."""

_TEXT: dict[str, Any] = {"type": "string"}
_TEXT_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}
_SAGA: dict[str, Any] = {
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
_SAGA["required"] = list(_SAGA["properties"])
SAGA = component("Saga", _SAGA)
