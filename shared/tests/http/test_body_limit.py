"""Bodies of endpoints that are not for files: bounded in bytes and in time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from artstore.errors import LengthRequired, TooLarge, TooSlow
from artstore.http import body
from artstore.http.body import limited_receive


def request(*pieces: bytes, pause_s: float = 0.0, length: str | None = None, chunked: bool = False) -> Request:
    left = list(pieces)

    async def receive() -> Any:
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    headers = [(b"transfer-encoding", b"chunked")] if chunked else []
    headers += [] if length is None else [(b"content-length", length.encode())]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


async def test_a_body_that_trickles_is_given_up_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "JSON_TIMEOUT_S", 0.2)
    slow = request(*[b"x"] * 100, pause_s=0.05, chunked=True)
    with pytest.raises(TooSlow):
        await Request(slow.scope, limited_receive(slow)).body()


async def test_a_body_too_large_is_refused_by_what_it_says_and_by_what_it_is() -> None:
    with pytest.raises(TooLarge):
        limited_receive(request(b"", length="11"), 10)
    long = request(b"12345", b"67890", b"1", chunked=True)
    with pytest.raises(TooLarge):
        await Request(long.scope, limited_receive(long, 10)).body()
    exact = request(b"12345", b"67890", chunked=True)
    assert await Request(exact.scope, limited_receive(exact, 10)).body() == b"1234567890"


async def test_content_needs_a_length_and_a_request_without_content_does_not() -> None:
    with pytest.raises(LengthRequired):
        limited_receive(request(b""))
    bare = request(b"")
    assert await Request(bare.scope, limited_receive(bare, takes_content=False)).body() == b""
