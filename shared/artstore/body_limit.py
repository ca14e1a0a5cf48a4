"""Bounds on what a request may bring."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.types import Message, Receive

from artstore.errors import TooLarge, TooSlow
from artstore.receiving import check_length, stated_length

MAX_JSON_BYTES = 1 << 20
"""The body of an endpoint that is not for files."""
JSON_TIMEOUT_S = 30.0
"""All of it."""


def limited_receive(request: Request, max_bytes: int = MAX_JSON_BYTES) -> Receive:
    """The request's `receive`, raising TooSlow after JSON_TIMEOUT_S, TooLarge (at once when the length is stated, else where
    the limit is passed), and Malformed where the length is not the stated one."""
    stated_bytes = stated_length(request) if "content-length" in request.headers else None
    if stated_bytes is not None and stated_bytes > max_bytes:
        raise TooLarge(f"the body may have {max_bytes} bytes", limit_bytes=max_bytes)
    seen = 0
    whole_by_s = asyncio.get_running_loop().time() + JSON_TIMEOUT_S

    async def receive() -> Message:
        nonlocal seen
        try:
            async with asyncio.timeout_at(whole_by_s):
                message = await request.receive()
        except TimeoutError as error:
            raise TooSlow(f"the body did not come within {JSON_TIMEOUT_S:g} s") from error
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise TooLarge(f"the body may have {max_bytes} bytes", limit_bytes=max_bytes)
        if message["type"] == "http.request" and not message.get("more_body", False):
            check_length(seen, stated_bytes)
        return message

    return receive
