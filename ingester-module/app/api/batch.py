"""POST /api/files/batch: up to 1 000 files in one request."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.files import MAX_TTL_DAYS
from artstore.contracts.sagas import MAX_BATCH_FILES
from artstore.contracts.schemas import FILENAME, METADATA, RECORD, TAGS
from artstore.errors import InvalidFields, UnsupportedMediaType
from artstore.http.idempotency_key import IDEMPOTENCY_KEY, key_of, keyed
from artstore.http.openapi import BYTES_SCHEMA, answer, object_schema, route

from ..batches.batch import BatchOperation
from ..core.context import context_of
from ..uploads.body import FORM, media_type


async def upload_batch(request: Request) -> Response:
    context = context_of(request)
    key = key_of(request)
    if media_type(request) != FORM:
        raise UnsupportedMediaType(f"a batch must be sent as {FORM}")
    if request.scope["query_string"]:
        raise InvalidFields("a batch takes no query parameters: describe each file in a part attributes before it")
    return await BatchOperation.open(context, request).respond(key)


_ATTRIBUTES: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "filename": FILENAME,
        "tags": TAGS,
        "metadata": METADATA,
        "retention": {"type": "string", "enum": ["permanent", "temporary"], "default": "permanent"},
        "ttl_days": {"type": "integer", "minimum": 1, "maximum": MAX_TTL_DAYS},
    },
}
_FORM: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["file"],
    "properties": {
        "attributes": {"type": "array", "maxItems": MAX_BATCH_FILES, "items": _ATTRIBUTES},
        "file": {"type": "array", "minItems": 1, "maxItems": MAX_BATCH_FILES, "items": BYTES_SCHEMA},
    },
}
_RESULT = object_schema(
    {"index": {"type": "integer", "minimum": 0}, "status": {"type": "integer"}},
    {"file": RECORD, "problem": {"$ref": "#/components/schemas/Problem"}},
)
_DESCRIPTION = """Parts `file`, each optionally preceded by a part `attributes` that describes it. The answer comes when the \
whole body was read, and has one result for each file in order: 201 with its record, or the status and the problem document \
that an upload of this file alone would have got. All files of an answer become visible together. Any other status stores \
nothing."""

BATCH_ROUTES = [
    route(
        "POST",
        "/api/files/batch",
        upload_batch,
        "Store many files: each 201 means it is on disk",
        keyed(
            {"200": answer("One result for each file", object_schema({"results": {"type": "array", "items": _RESULT}}))}
        ),
        transfer=True,
        description=_DESCRIPTION,
        parameters=[IDEMPOTENCY_KEY],
        body={"multipart/form-data": _FORM},
    )
]
