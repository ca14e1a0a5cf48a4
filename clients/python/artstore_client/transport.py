"""Sends requests: with a token, within idle timeouts, and again where a repeat is safe."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from .errors import (
    ArtStoreError,
    BadGateway,
    ChecksumMismatch,
    ConnectionFailed,
    DigestMismatch,
    ElementFailed,
    IdempotencyKeyInUse,
    InternalError,
    InvalidAnswer,
    Overloaded,
    RateLimited,
    TooSlow,
    Unavailable,
    from_answer,
)
from .tokens import TokenProvider

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
MAX_RATE_WAIT_S = 600.0
"""A program over its rate limit is slowed down, not failed: up to this long for one call."""
TRANSIENT = (
    ConnectionFailed, BadGateway, Unavailable, Overloaded, ElementFailed, RateLimited, TooSlow, IdempotencyKeyInUse
)  # fmt: skip
TWICE = (InternalError, DigestMismatch, ChecksumMismatch)
"""Repeated two times: bytes may be damaged on the way, but a defect stays."""
MAX_ERROR_BYTES = 64 * 1024

Parameters = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Call:
    """One request. `repeatable`: to send it twice does the same as to send it once.

    `content` makes the body anew for each attempt, unless it `is_stream`, which is sent once whatever happens. Its length
    goes into `headers`, otherwise it is sent in chunks.
    """

    method: str
    path: str
    repeatable: bool
    parameters: Parameters = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    content: Callable[[], AsyncIterator[bytes]] | None = None
    is_stream: bool = False
    authorized: bool = True


class Patience:
    """Decides whether and when a failed call is repeated. `succeeded` begins anew after progress."""

    def __init__(self, retry_for_s: float) -> None:
        self._retry_for_s = retry_for_s
        self._rate_wait_s = 0.0
        self.succeeded()

    def succeeded(self) -> None:
        self._failures = 0
        self._twice = 0
        self._gives_up_at_s = float("inf")

    async def wait(self, failure: ArtStoreError, *, transient: bool = False) -> None:
        """Sleeps until the next attempt. Raises `failure` when there should be none."""
        if self._retry_for_s <= 0 or not (transient or isinstance(failure, (*TRANSIENT, *TWICE))):
            raise failure
        if isinstance(failure, TWICE):
            self._twice += 1
            if self._twice > 2:
                raise failure
        now_s = asyncio.get_running_loop().time()
        if not self._failures:
            self._gives_up_at_s = now_s + self._retry_for_s
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1)
        pause_s = max(pause_s, (failure.retry_after or 0) * random.uniform(1, 1.2))
        self._failures += 1
        if isinstance(failure, RateLimited):
            self._rate_wait_s += pause_s
            self._gives_up_at_s += pause_s
        if now_s + pause_s > self._gives_up_at_s or self._rate_wait_s > MAX_RATE_WAIT_S:
            raise failure
        await asyncio.sleep(pause_s)


class Transport:
    """One address, one pool of connections, one source of tokens."""

    def __init__(self, http: httpx.AsyncClient, retry_for_s: float) -> None:
        self.http = http
        self.retry_for_s = retry_for_s
        self.tokens: TokenProvider

    def patience(self) -> Patience:
        return Patience(self.retry_for_s)

    async def json(self, call: Call) -> Any:
        """The JSON of a successful answer; None without content. Raises ArtStoreError."""
        return json_of(await self.send(call))

    async def send(self, call: Call, *, patience: Patience | None = None) -> httpx.Response:
        """A successful answer, read whole. Raises ArtStoreError."""
        return await self._repeat(call, patience or self.patience(), whole=True)

    async def stream(self, call: Call, *, patience: Patience | None = None) -> httpx.Response:
        """A successful answer whose content is not read yet: the caller closes it. Raises ArtStoreError."""
        return await self._repeat(call, patience or self.patience(), whole=False)

    async def attempt(self, call: Call) -> httpx.Response:
        """As `send`, but a failure is not repeated, except once with a new token after a 401."""
        return await self._attempt(call, whole=True)

    async def _repeat(self, call: Call, patience: Patience, *, whole: bool) -> httpx.Response:
        while True:
            try:
                return await self._attempt(call, whole=whole)
            except ArtStoreError as failure:
                if call.is_stream or not (call.repeatable or _was_not_carried_out(failure)):
                    raise
                await patience.wait(failure)

    async def _attempt(self, call: Call, *, whole: bool) -> httpx.Response:
        if not call.authorized:
            return await self._send_once(call, "", whole=whole)
        token = await self.tokens.token()
        try:
            return await self._send_once(call, token, whole=whole)
        except ArtStoreError as failure:
            if failure.status != 401 or call.is_stream:
                raise
            renewed = await self.tokens.token(refused=token)
            if renewed == token:
                raise
        return await self._send_once(call, renewed, whole=whole)

    async def _send_once(self, call: Call, token: str, *, whole: bool) -> httpx.Response:
        headers = {**call.headers, **({"authorization": f"Bearer {token}"} if token else {})}
        request = self.http.build_request(
            call.method,
            call.path,
            params=httpx.QueryParams(list(call.parameters)) if call.parameters else None,
            headers=headers,
            json=call.json,
            content=call.content() if call.content else None,
        )
        try:
            answer = await self.http.send(request, stream=True)
            if answer.status_code >= 300:
                raise await _failure(answer)
            if whole:
                try:
                    await answer.aread()
                finally:
                    await answer.aclose()
            return answer
        except httpx.HTTPError as error:
            raise connection_failed(error) from error


def json_of(answer: httpx.Response) -> Any:
    """None for an answer without content. Raises InvalidAnswer."""
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError:
        raise InvalidAnswer(f"{answer.url} did not answer with JSON", status=answer.status_code) from None


def connection_failed(error: httpx.HTTPError) -> ConnectionFailed:
    text = str(error) or type(error).__name__
    try:
        host = error.request.url.netloc.decode()
    except RuntimeError:
        return ConnectionFailed(text)
    failed = ConnectionFailed(f"{host}: {text}")
    failed.never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    return failed


def _was_not_carried_out(failure: ArtStoreError) -> bool:
    """The service refused the request before it did anything, or the request was never sent."""
    return isinstance(failure, RateLimited | Overloaded) or (
        isinstance(failure, ConnectionFailed) and failure.never_sent
    )


async def _failure(answer: httpx.Response) -> ArtStoreError:
    try:
        body = b""
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > MAX_ERROR_BYTES:
                break
    finally:
        await answer.aclose()
    if answer.status_code < 400:
        return InvalidAnswer(
            f"{answer.url} answered {answer.status_code} {answer.headers.get('location', '')}".strip(),
            status=answer.status_code,
        )
    return from_answer(answer.status_code, answer.headers, body)


def compact_json(value: Any) -> str:
    """JSON without spaces. Raises ValueError for what JSON cannot express."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except TypeError as error:
        raise ValueError(str(error)) from error
