"""Bounds on what a request may bring."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import Message, Receive

from artstore.errors import Malformed, TooLarge

MAX_JSON_BYTES = 1 << 20
"""The body of an endpoint that is not for files."""


def limited_receive(request: Request, max_bytes: int = MAX_JSON_BYTES) -> Receive:
    """The request's `receive`, raising TooLarge: at once when the length is stated, else where the limit is passed."""
    stated = request.headers.get("content-length", "0")
    if not stated.isascii() or not stated.isdigit():
        raise Malformed("Content-Length is no number")
    if int(stated) > max_bytes:
        raise TooLarge(f"the body may have {max_bytes} bytes", limit_bytes=max_bytes)
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise TooLarge(f"the body may have {max_bytes} bytes", limit_bytes=max_bytes)
        return message

    return receive
