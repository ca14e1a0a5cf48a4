"""Pieces of the OpenAPI operations of the routes in `files.py`."""

from __future__ import annotations

from typing import Any

from artstore.contracts.files import DEFAULT_TTL_DAYS, MAX_TTL_DAYS
from artstore.contracts.schemas import FILENAME, METADATA, RECORD, RETENTION, SAGA, TAGS, component
from artstore.http.openapi import BYTES_SCHEMA, answer

FIELD_SCHEMAS: dict[str, Any] = {
    "filename": FILENAME,
    "tags": {
        **TAGS,
        # what begins as JSON is read as JSON, and a comma could mean several tags
        "items": {**TAGS["items"], "pattern": '^[^\\s,\\[{"\\x00-\\x1f\\x7f-\\x9f][^,\\x00-\\x1f\\x7f-\\x9f]*$'},
        "description": "The field repeated for each tag; or once, as a JSON array of strings",
    },
    "metadata": METADATA,
    "retention": RETENTION,
    "ttl_days": {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_TTL_DAYS,
        "examples": [DEFAULT_TTL_DAYS],
        "description": f"with retention=temporary only; {DEFAULT_TTL_DAYS} by default",
    },
}

QUERY_SCHEMAS: dict[str, Any] = {
    **FIELD_SCHEMAS,
    "metadata": {"type": "string", "description": "JSON object"},
}

FORM_SCHEMA = component(
    "UploadForm",
    {
        "type": "object",
        "additionalProperties": False,
        "required": ["file"],
        "properties": {**FIELD_SCHEMAS, "file": BYTES_SCHEMA},
    },
)
UPLOAD_DESCRIPTION = """Either a form, its parts in any order, or any other content type: then the body is the file, named by \
`filename` or Content-Disposition, else by its id. A field may be given once, as a part or as a query parameter; `tags` may be \
repeated, and be a plain word instead of JSON. Digests are checked; a digest in a form's own header may be that of the whole \
body or of the file."""
CREATE_DESCRIPTION = """The id is a UUID of version 4 or 7, and is used once: 412 when the file exists, 409 when it was deleted, \
or while another upload under the id is running. To repeat a request whose answer was lost is safe."""
CHANGES_SCHEMA = component(
    "FileChanges",
    {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {
            "filename": FILENAME,
            "tags": TAGS,
            "metadata": METADATA,
            "ttl_days": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_TTL_DAYS,
                "description": "of a temporary file: it expires this many days after the request",
            },
            "retention": {
                "type": "string",
                "enum": ["permanent"],
                "description": "makes a temporary file permanent; asked alone, and answered 202 while the file moves",
            },
        },
    },
)
REDIRECT_ANSWERS = {"307": answer("The same path at query", headers={"Location": "The address at query"})}

RECORD_ANSWER = answer("The file's attr.json", RECORD)
QUEUED_ANSWER = answer(
    "Stored and made in order, because the file's element is unavailable, earlier changes are queued, or the file moves",
    SAGA,
    headers={"Location": "The saga of the change"},
)
