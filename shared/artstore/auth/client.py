"""A module's own access token, fetched from admin with its account and renewed after half its lifetime.

So a module works for at least a quarter of an hour without admin. The token is also kept in a file, for a
restart during an outage of admin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec
import orjson

from artstore.atomic_file import replace_file
from artstore.clock import Clock
from artstore.config import AdminClientSettings
from artstore.contracts.tokens import EXPIRES_IN_S, TokenAnswer
from artstore.errors import ADMIN, BadGateway, Forbidden, Unauthenticated, Unavailable, from_wire
from artstore.logs import get_logger
from artstore.peers.breaker import Breaker, Breakers
from artstore.peers.faults import PeerFault, is_at_fault
from artstore.peers.session import CONNECT_TIMEOUT_S
from artstore.runtime import Runtime
from artstore.tasks import spawn

log = get_logger("artstore.auth")
SPARE_S = 5
"""A token is not used in its last seconds, because it could expire on the way."""
RETRY_EVERY_S = 1.0
"""Interval between attempts to renew, while the old token is still valid."""


class _KeptToken(msgspec.Struct, frozen=True):
    """The content of KEPT_TOKEN_FILE."""

    client_id: str
    access_token: str
    expires_at_s: float


class ServiceTokens:
    """Call the object to get the token. Concurrent callers share one request to admin."""

    def __init__(
        self, settings: AdminClientSettings, session: aiohttp.ClientSession, clock: Clock, breaker: Breaker
    ) -> None:
        self._settings, self._session, self._clock, self._breaker = settings, session, clock, breaker
        self._token = ""
        self._renew_at_s = self._expires_at_s = 0.0
        self._fetched_s = float("-inf")
        self._fetch: asyncio.Task[None] | None = None
        if settings.kept_token_file is not None:
            self._take_kept(settings.kept_token_file)

    async def __call__(self) -> str:
        """Raises Unavailable without a valid token while admin is unavailable; BadGateway if admin refuses
        the account."""
        now_s = self._clock.monotonic_s()
        if now_s < self._renew_at_s:
            return self._token
        if self._fetch is None:
            self._fetch = spawn("own-token", self._renew())
            self._fetch.add_done_callback(self._forget)
        if now_s < self._expires_at_s:
            self._renew_at_s = now_s + RETRY_EVERY_S
            return self._token
        await asyncio.shield(self._fetch)
        return self._token

    async def check(self) -> None:
        """The readiness check: raises while there is no valid token."""
        await self()

    def invalidate(self, token: str) -> None:
        """A peer refused the token: it was taken back. The next call fetches another, at most one in RETRY_EVERY_S."""
        now_s = self._clock.monotonic_s()
        if token == self._token and now_s - self._fetched_s >= RETRY_EVERY_S:
            self._renew_at_s = self._expires_at_s = now_s

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._fetch = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("own token not renewed", error=str(error))

    async def _renew(self) -> None:
        asked_s = self._clock.monotonic_s()
        body = orjson.dumps(
            {
                "client_id": self._settings.service_client_id,
                "client_secret": self._settings.service_client_secret.get_secret_value(),
            }
        )
        try:
            async with self._breaker.guard():
                issued = await self._ask(body)
        except PeerFault as fault:
            raise fault.error from fault
        except (Unauthenticated, Forbidden) as error:
            raise BadGateway(f"admin refuses this service's account: {error.detail}") from error
        self._token, self._fetched_s = issued.access_token, asked_s
        self._renew_at_s = asked_s + issued.expires_in / 2
        self._expires_at_s = asked_s + issued.expires_in - SPARE_S
        if self._settings.kept_token_file is not None:
            await asyncio.to_thread(self._keep, self._settings.kept_token_file, issued)

    def _take_kept(self, path: Path) -> None:
        """Uses a token of an earlier process until the first renewal, which the first call starts."""
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=_KeptToken)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("the token kept last is unreadable", path=str(path), error=str(error))
            return
        left_s = min(kept.expires_at_s - self._clock.unix_s(), EXPIRES_IN_S) - SPARE_S
        if kept.client_id == self._settings.service_client_id and left_s > 0:
            self._token, self._expires_at_s = kept.access_token, self._clock.monotonic_s() + left_s

    def _keep(self, path: Path, issued: TokenAnswer) -> None:
        """Blocks on disk."""
        kept = _KeptToken(
            self._settings.service_client_id, issued.access_token, self._clock.unix_s() + issued.expires_in
        )
        try:
            replace_file(path, msgspec.json.encode(kept))
        except OSError as error:  # a full disk must not end the calls of this module
            log.warning("the own token is not kept", path=str(path), error=str(error))

    async def _ask(self, body: bytes) -> TokenAnswer:
        timeout = aiohttp.ClientTimeout(total=self._settings.peer_timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        url = f"{self._settings.admin_url.rstrip('/')}/api/auth/token"
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(url, data=body, headers=headers, timeout=timeout) as response:
                answer = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise PeerFault(Unavailable("admin cannot be reached for an access token", away=ADMIN)) from error
        if response.status != 200:
            failure = from_wire(response.status, answer)
            raise PeerFault(failure) if response.status >= 500 and is_at_fault(ADMIN, failure) else failure
        try:
            return msgspec.json.decode(answer, type=TokenAnswer)
        except msgspec.MsgspecError as error:
            raise BadGateway("admin answered without an access token") from error


def open_account(
    settings: AdminClientSettings, runtime: Runtime, breakers: Breakers, *, required: bool
) -> Callable[[aiohttp.ClientSession], ServiceTokens]:
    """The `token` argument of `open_peers`. Adds the health check `account`, which fails while this module
    has no token."""

    def begin(session: aiohttp.ClientSession) -> ServiceTokens:
        tokens = ServiceTokens(settings, session, runtime.clock, breakers.to(ADMIN, (PeerFault,)))
        runtime.health.add("account", tokens.check, required=required)
        return tokens

    return begin
