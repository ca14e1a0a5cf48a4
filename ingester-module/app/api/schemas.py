"""Pieces of the OpenAPI document that several routes share."""

from __future__ import annotations

from typing import Any

from artstore.contracts.files import DEFAULT_TTL_DAYS, MAX_TTL_DAYS
from artstore.contracts.idempotency import MAX_KEY_CHARS
from artstore.contracts.schemas import FILENAME, RECORD, SAGA
from artstore.http.openapi import PROBLEM_RESPONSE

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

IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": "^[\\x21-\\x7e]+$"},
    "description": (
        "Anything unique to this request, a UUID for example. However often the request is sent again under it within "
        "24 hours, it is done once, and each repeat gets the first answer. While the first is still running, a repeat is "
        "answered with 409 and `Retry-After`; another request under the key with 422. A failure is not kept: after one the "
        "key is free."
    ),
}
CONFLICT = (
    "`idempotency_key_in_use`: the first request under the key is still running, see `Retry-After`; or another conflict"
)
REPLAYED: dict[str, Any] = {
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "This answer was given before, to the first request under the key",
    }
}

RECORD_ANSWER: dict[str, Any] = {
    "description": "The file's attr.json",
    "content": {"application/json": {"schema": RECORD}},
}
QUEUED_ANSWER: dict[str, Any] = {
    "description": "The file's element is away: the change is remembered, and made when it is back",
    "headers": {"Location": {"schema": {"type": "string"}}},
    "content": {"application/json": {"schema": SAGA}},
}


def keyed(responses: dict[str, Any]) -> dict[str, Any]:
    """Responses of an operation that takes an Idempotency-Key."""
    marked = {
        status: {**answer, "headers": {**answer.get("headers", {}), **REPLAYED}} for status, answer in responses.items()
    }
    return {**marked, "409": {**PROBLEM_RESPONSE, "description": CONFLICT}}
