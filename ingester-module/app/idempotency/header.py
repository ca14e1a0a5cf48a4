"""The header itself."""

from __future__ import annotations

import re

from starlette.requests import Request

from artstore.contracts.idempotency import HEADER, MAX_KEY_CHARS
from artstore.errors import InvalidFields

_VISIBLE = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_CHARS}}}")


def key_of(request: Request) -> str | None:
    """The key as it was sent, quotes and all; None without one. Raises InvalidFields before anything of the body is read."""
    given = request.headers.getlist(HEADER) if HEADER in request.headers else None
    if given is None:
        return None
    if len(given) > 1 or not _VISIBLE.fullmatch(given[0]):
        raise InvalidFields(f"Idempotency-Key is one of 1 to {MAX_KEY_CHARS} visible ASCII characters", fields=[HEADER])
    return given[0]
