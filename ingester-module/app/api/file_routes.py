"""What /openapi.json says of the routes of one file."""

from __future__ import annotations

from artstore.contracts.schemas import FILENAME, METADATA, TAGS
from artstore.http.request_headers import CHANGED_BY_REVISION, DIGESTS
from artstore.service import DataRoute

from .files import delete_file, patch_file, replace_content
from .schemas import DIGEST_HEADERS, IDEMPOTENCY_KEY, IF_MATCH, QUEUED_ANSWER, RECORD_ANSWER, keyed

FILE_ROUTES = [
    DataRoute(
        path="/api/files/{file_id}",
        methods=["PATCH"],
        handler=patch_file,
        honours=CHANGED_BY_REVISION,
        openapi={
            "patch": {
                "tags": ["files"],
                "summary": "Change attributes; what is absent stays",
                "operationId": "patch_file",
                "parameters": [IF_MATCH, IDEMPOTENCY_KEY],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "additionalProperties": False,
                                "properties": {"filename": FILENAME, "tags": TAGS, "metadata": METADATA},
                            }
                        }
                    },
                },
                "responses": keyed({"200": RECORD_ANSWER, "202": QUEUED_ANSWER}),
            }
        },
    ),
    DataRoute(
        path="/api/files/{file_id}",
        methods=["DELETE"],
        handler=delete_file,
        honours=CHANGED_BY_REVISION,
        openapi={
            "delete": {
                "tags": ["files"],
                "summary": "Delete a file on an element that allows it",
                "operationId": "delete_file",
                "parameters": [IF_MATCH, IDEMPOTENCY_KEY],
                "responses": keyed({"202": QUEUED_ANSWER, "204": {"description": "The file is gone"}}),
            }
        },
    ),
    DataRoute(
        path="/api/files/{file_id}/content",
        methods=["PUT"],
        handler=replace_content,
        honours=CHANGED_BY_REVISION | DIGESTS,
        transfer=True,
        openapi={
            "put": {
                "tags": ["files"],
                "summary": "Replace a file's bytes; its attributes stay",
                "operationId": "replace_content",
                "parameters": [IF_MATCH, *DIGEST_HEADERS, IDEMPOTENCY_KEY],
                "requestBody": {
                    "required": True,
                    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
                },
                "responses": keyed({"200": RECORD_ANSWER}),
            }
        },
    ),
]
