"""The header Idempotency-Key: its value, the fingerprint of a request, and their description in OpenAPI."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson
from starlette.requests import Request

from artstore.contracts.idempotency import HEADER, MAX_KEY_CHARS
from artstore.errors import InvalidFields
from artstore.http.openapi import PROBLEM_RESPONSE, header

_VISIBLE_ASCII = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_CHARS}}}")

IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "Any value unique to this request, such as a UUID. A request that is repeated under its key within 24 hours runs once, "
    "and each repeat gets the first answer. A repeat is answered 409 with `Retry-After` while the first request is running; "
    "a different request under the key is answered 422. A failure is not stored: it leaves the key free.",
    {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": "^[\\x21-\\x7e]+$"},
)
REPLAYED_HEADER: dict[str, Any] = {
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "The answer to the first request under the key, given again",
    }
}
_KEY_IN_USE = (
    "`idempotency_key_in_use`: the first request under the key is still running, see `Retry-After`; or another conflict"
)


def keyed(responses: dict[Any, Any]) -> dict[Any, Any]:
    """Responses of an operation that takes an Idempotency-Key."""
    marked = {
        status: {**response, "headers": {**response.get("headers", {}), **REPLAYED_HEADER}}
        for status, response in responses.items()
    }
    return {**marked, "409": {**PROBLEM_RESPONSE, "description": _KEY_IN_USE}}


def keyed_route(described: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a FastAPI route, for one that takes an Idempotency-Key."""
    more = {"responses": keyed(described["responses"]), "openapi_extra": {"parameters": [IDEMPOTENCY_KEY]}}
    return {**described, **more}


def key_of(request: Request) -> str | None:
    """The key as sent, including quotes; None without one. Raises InvalidFields before the body is read."""
    if HEADER not in request.headers:
        return None
    values = request.headers.getlist(HEADER)
    if len(values) > 1 or not _VISIBLE_ASCII.fullmatch(values[0]):
        raise InvalidFields(
            f"Idempotency-Key must be one value of 1 to {MAX_KEY_CHARS} visible ASCII characters", fields=[HEADER]
        )
    return values[0]


def fingerprint_of(*parts: Any) -> str:
    """Equal for two requests that ask for the same; `parts` are JSON values."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
