"""POST /api/files/upload."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from artstore.contracts.idempotency import uploaded
from artstore.http.request_headers import DIGESTS
from artstore.service import DataRoute

from ..core.context import Context
from ..idempotency.header import key_of
from ..idempotency.replay import again, first
from ..idempotency.upload import upload_once
from ..uploads.upload import upload
from .schemas import DIGEST_HEADERS, FIELD_SCHEMAS, IDEMPOTENCY_KEY, RECORD_ANSWER, keyed


async def upload_file(request: Request) -> Response:
    context: Context = request.app.state.context
    key = key_of(request)
    with context.files.operation("put"):
        if key is None:
            stored = await upload(context, request)
            return first(uploaded(stored.file_id, stored.record))
        answer, given_before = await upload_once(context, request, key)
    return again(answer) if given_before else first(answer)


_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "properties": {**FIELD_SCHEMAS, "file": {"type": "string", "format": "binary", "description": "the last part"}},
}

UPLOAD_ROUTES = [
    DataRoute(
        path="/api/files/upload",
        methods=["POST"],
        handler=upload_file,
        honours=DIGESTS,
        transfer=True,
        openapi={
            "post": {
                "tags": ["files"],
                "summary": "Store a file: 201 means it is on disk",
                "description": (
                    "Either a form, its fields before the part `file`, or any other content type: then the body is the "
                    "file, named by `filename` or Content-Disposition, else by its id. A field may be given once, as a "
                    "part or as a query parameter. Digests are checked; of a form's own header the whole body or the "
                    "file may be meant."
                ),
                "operationId": "upload_file",
                "parameters": [
                    *({"name": name, "in": "query", "schema": schema} for name, schema in FIELD_SCHEMAS.items()),
                    *DIGEST_HEADERS,
                    IDEMPOTENCY_KEY,
                ],
                "requestBody": {
                    "required": True,
                    "content": {
                        "multipart/form-data": {"schema": _FORM},
                        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    },
                },
                "responses": keyed(
                    {
                        "201": {
                            **RECORD_ANSWER,
                            "description": "Stored; the answer is its attr.json",
                            "headers": {"Location": {"schema": {"type": "string"}}},
                        }
                    }
                ),
            }
        },
    )
]
