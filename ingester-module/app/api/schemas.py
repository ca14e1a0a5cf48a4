"""Pieces of the OpenAPI document that several routes share."""

from __future__ import annotations

from typing import Any

from artstore.contracts.files import DEFAULT_TTL_DAYS, MAX_TTL_DAYS
from artstore.contracts.schemas import FILENAME, RECORD

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

RECORD_ANSWER: dict[str, Any] = {
    "description": "The file's attr.json",
    "content": {"application/json": {"schema": RECORD}},
}
