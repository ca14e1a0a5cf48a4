"""The address at which the client of a request sees this service."""

from __future__ import annotations

import re

from starlette.requests import Request

from artstore.errors import Malformed
from artstore.limits.gate import Limits

_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


def origin_of(request: Request, public_url: str | None) -> str:
    """PUBLIC_URL, or else what the request names: only its sender sees the answer. The gateway passes on Host, and
    names the scheme that it was called by in X-Forwarded-Proto. Raises Malformed."""
    if public_url is not None:
        return public_url
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise Malformed("Host must be a name or an address, with or without a port")
    forwarded = request.headers.get("x-forwarded-proto")
    limits: Limits = request.app.state.limits
    believed = forwarded in ("http", "https") and limits.is_from_proxy(request.scope)
    return f"{forwarded if believed else request.url.scheme}://{host}"
