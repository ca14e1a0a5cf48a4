"""Idempotency-Key: not supported yet, so it is refused. To ignore it would let a repeat store the file twice."""

from __future__ import annotations

from functools import wraps

from starlette.requests import Request
from starlette.responses import Response

from artstore.errors import InvalidFields
from artstore.service import Handler

HEADER = "Idempotency-Key"


def without_idempotency_key(handler: Handler) -> Handler:
    """Raises InvalidFields before anything of the body is read."""

    @wraps(handler)
    async def asked(request: Request) -> Response:
        if HEADER in request.headers:
            raise InvalidFields(f"{HEADER} is not supported yet: send the request without it", fields=[HEADER])
        return await handler(request)

    return asked
