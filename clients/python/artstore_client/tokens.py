"""Access tokens: fetched once for all tasks, renewed before they expire, and once after a 401."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

EXPIRY_MARGIN_S = 15
"""A token is not used in the last seconds of its life, because a request takes time and clocks differ."""

RENEW_AGAIN_S = 10
"""After a failed renewal, while the present token is valid."""


class TokenProvider(Protocol):
    """The source of the client's access token."""

    async def token(self, refused: str = "") -> str:
        """A valid token. `refused` was answered 401: return another one, or the same if there is none."""
        ...


class FixedToken:
    """A token that the caller has fetched."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self, refused: str = "") -> str:
        return self._token


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, and its life in seconds from now."""

    token: str
    expires_in_s: float


class FetchedTokens:
    """Tokens of `fetch`. Any number of tasks share one fetch, and use the old token while it is valid."""

    def __init__(self, fetch: Callable[[], Awaitable[Issued]]) -> None:
        self._fetch = fetch
        self._token = ""
        self._renew_at_s = 0.0
        self._expires_at_s = 0.0
        self._fetching: asyncio.Task[str] | None = None

    async def token(self, refused: str = "") -> str:
        now_s = asyncio.get_running_loop().time()
        if refused and refused == self._token:
            self._token = ""
        if not self._token or now_s >= self._expires_at_s:
            return await asyncio.shield(self._shared_fetch())
        if now_s >= self._renew_at_s:
            self._shared_fetch()  # nothing waits for it: the present token is valid
        return self._token

    def _shared_fetch(self) -> asyncio.Task[str]:
        if self._fetching is None:
            self._renew_at_s = asyncio.get_running_loop().time() + RENEW_AGAIN_S
            self._fetching = asyncio.create_task(self._renew())
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    async def _renew(self) -> str:
        issued = await self._fetch()
        now_s = asyncio.get_running_loop().time()
        self._token = issued.token
        self._renew_at_s = now_s + issued.expires_in_s / 2
        self._expires_at_s = now_s + issued.expires_in_s - min(EXPIRY_MARGIN_S, issued.expires_in_s / 4)
        return issued.token

    def _fetched(self, done: asyncio.Task[str]) -> None:
        self._fetching = None
        if not done.cancelled():
            done.exception()  # retrieved here, because nothing may wait for it any more

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
