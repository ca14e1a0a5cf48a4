"""POST /api/files/upload."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.schemas import RECORD
from artstore.http.data_routes import DataRoute
from artstore.http.openapi import BYTES_SCHEMA, answer, operation, query
from artstore.http.request_headers import DIGESTS

from ..core.context import context_of
from ..idempotency.keys import key_of
from ..idempotency.replay import run_or_replay
from ..uploads.upload import UploadOperation
from .schemas import DIGEST_HEADERS, FIELD_SCHEMAS, IDEMPOTENCY_KEY, keyed


async def upload_file(request: Request) -> Response:
    context = context_of(request)
    key = key_of(request)
    with context.files.operation("put"):
        upload = await UploadOperation.open(context, request)
        return await run_or_replay(context.keys, key, upload)


_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "properties": {**FIELD_SCHEMAS, "file": {**BYTES_SCHEMA, "description": "the last part"}},
}

UPLOAD_ROUTES = [
    DataRoute(
        path="/api/files/upload",
        methods=["POST"],
        handler=upload_file,
        honours=DIGESTS,
        transfer=True,
        openapi={
            "post": operation(
                "Store a file: 201 means it is on disk",
                operation_id="upload_file",
                description=(
                    "Either a form, its fields before the part `file`, or any other content type: then the body is the file, "
                    "named by `filename` or Content-Disposition, else by its id. A field may be given once, as a part or as "
                    "a query parameter. Digests are checked; a digest in a form's own header may be that of the whole body "
                    "or of the file."
                ),
                parameters=[
                    *(query(name, schema=schema) for name, schema in FIELD_SCHEMAS.items()),
                    *DIGEST_HEADERS,
                    IDEMPOTENCY_KEY,
                ],
                body={"multipart/form-data": _FORM, "application/octet-stream": BYTES_SCHEMA},
                responses=keyed(
                    {"201": answer("Stored; the answer is its attr.json", RECORD, headers={"Location": "The file"})}
                ),
            )
        },
    )
]
