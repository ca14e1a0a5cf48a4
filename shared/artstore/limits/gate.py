"""Applies the limits to requests. The edge counts requests without a valid token by their address;
`auth/access.py` calls `Limits.admit` to count the others by their account.

Health, metrics and the API description are never limited. Module accounts are not limited either: they act
for accounts whose requests were counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from starlette.requests import HTTPConnection
from starlette.types import Scope

from artstore.auth.tokens import Principal
from artstore.clock import Clock
from artstore.contracts.tokens import Role
from artstore.errors import RateLimited
from artstore.limits.addresses import (
    UNKNOWN,
    Address,
    Network,
    as_caller,
    find_client,
    is_trusted,
    parse_networks,
)
from artstore.limits.gcra import Decision, Quota
from artstore.limits.limiter import Limiter
from artstore.limits.load import Load
from artstore.limits.settings import LimitSettings
from artstore.limits.transfers import Transfers

NEVER_LIMITED = frozenset({"/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"})
TOKEN_PATH = "/api/auth/token"
OK, UNAUTHENTICATED, INTERNAL_ERROR = 200, 401, 500
FAILURES_PER_MINUTE = 60
"""Tolerated because a client with an expired secret that retries every second is not an attack."""
FAILURES_OF_ACCOUNT = 5
"""Failed logins of one account may be this many times those of an address; more get 429, from every address.
A correct login is never refused for that, or anybody who knows its name could lock an account out."""
MAX_BLOCKED = 10_000
REMEMBERED_CLIENTS = 1024
MAX_REMEMBERED_BYTES = 256
"""A longer X-Forwarded-For is parsed again for each request."""
PRINCIPAL = "principal"
"""Key in the request's state: the authenticated Principal."""
FAILED = "failed_login"
"""Key in the request's state: the credentials were wrong, whatever the status of the response."""
DECISION = "limit"
"""Key in the request's state: the Decision that the RateLimit headers report."""


class Limits:
    """The quotas of a service and the blocked addresses."""

    def __init__(
        self, settings: LimitSettings, limiter: Limiter, load: Load, transfers: Transfers, clock: Clock
    ) -> None:
        self.limiter, self.load, self.transfers = limiter, load, transfers
        self._clock = clock
        self._trusted: tuple[Network, ...] = parse_networks(settings.trusted_proxies)
        self._account = Quota("account", settings.rate_limit_per_minute, settings.rate_limit_burst)
        self._burst_ratio = settings.rate_limit_burst / settings.rate_limit_per_minute
        per_minute = settings.ip_rate_limit_per_minute
        self._address = Quota("address", per_minute, max(1, per_minute // 2))
        self._failures = Quota(
            "failures", FAILURES_PER_MINUTE, settings.ip_block_after_failures, penalty_s=settings.ip_block_s
        )
        self._failed_logins = Quota(
            "logins", FAILURES_OF_ACCOUNT * FAILURES_PER_MINUTE, FAILURES_OF_ACCOUNT * settings.ip_block_after_failures
        )
        self._find_text = lru_cache(REMEMBERED_CLIENTS)(self._uncached_text)
        self._own: dict[int, Quota] = {}
        self._blocked_until_s: dict[str, float] = {}

    async def admit(self, connection: HTTPConnection, principal: Principal) -> None:
        """Counts a request of an account, except a module's, which acts for other accounts. Raises
        RateLimited."""
        if principal.role is not Role.SERVICE:
            await self._count(connection, f"account:{principal.subject}", principal.rate_per_minute)

    async def admit_login(self, connection: HTTPConnection, subject: str, rate_per_minute: int | None) -> None:
        """Counts a successful login separately from the account's requests, also for modules. Raises
        RateLimited."""
        await self._count(connection, f"login:{subject}", rate_per_minute)

    async def fail_login(self, connection: HTTPConnection, client_id: str) -> None:
        """Counts a failed login for the account in addition to the address. Raises RateLimited."""
        connection.scope.setdefault("state", {})[FAILED] = True
        decision = await self.limiter.take(f"logins:{client_id}", self._failed_logins)
        if not decision.allowed:
            raise RateLimited("too many failed logins of this client_id", retry_after_s=decision.retry_after_s)

    async def _count(self, connection: HTTPConnection, key: str, rate_per_minute: int | None) -> None:
        quota = self._quota_of(rate_per_minute)
        decision = self.limiter.use_lease(key, quota) or await self.limiter.take(key, quota)
        connection.scope.setdefault("state", {})[DECISION] = decision
        if not decision.allowed:
            raise refusal(decision)

    def find_client(self, scope: Scope) -> Address | None:
        """The client's address, as reported by the trusted proxies; None for a peer without an address."""
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return find_client((scope.get("client") or (None,))[0], forwarded, self._trusted)

    def client_address(self, scope: Scope, fields: Mapping[bytes, bytes]) -> str:
        """`find_client` as text, and cheaper; `fields` are the request's headers by name."""
        peer = (scope.get("client") or (None,))[0]
        if peer is not None and (not self._trusted or b"x-forwarded-for" not in fields):
            return str(peer)
        forwarded = b",".join([value for name, value in scope["headers"] if name == b"x-forwarded-for"])
        if len(forwarded) > MAX_REMEMBERED_BYTES:
            return str(self.find_client(scope) or UNKNOWN)
        return self._find_text(peer, forwarded)

    def _uncached_text(self, peer: str | None, forwarded: bytes) -> str:
        return str(find_client(peer, [forwarded.decode("latin-1")], self._trusted) or UNKNOWN)

    def is_from_proxy(self, scope: Scope) -> bool:
        """True if a trusted proxy has sent the request."""
        return is_trusted((scope.get("client") or ("",))[0], self._trusted)

    def address_of(self, scope: Scope) -> str:
        """The key that the limits count the request's address under."""
        return as_caller(self.find_client(scope))

    def begin_transfer(self, principal: Principal) -> None:
        """Counts one more transfer of the account until `end_transfer`. A transfer mostly waits for the
        network, so it does not count as load. Raises RateLimited."""
        self.transfers.begin(principal)
        self.load.in_flight -= 1

    def end_transfer(self, principal: Principal) -> None:
        self.load.in_flight += 1
        self.transfers.end(principal)

    async def refuse_anonymous(self, scope: Scope) -> RateLimited | None:
        """Counts a request without credentials. Returns the error to answer it with, or None."""
        decision = scope["state"][DECISION] = await self.count_anonymous(self.address_of(scope))
        return None if decision.allowed else refusal(decision)

    async def refuse_late(self, scope: Scope, status: int) -> RateLimited | None:
        """Counts what only the response to presented credentials reveals: that they are invalid, or that the
        endpoint did not check them. Returns the error to send instead of the response, or None. Up to then the
        request has cost no more than a refusal."""
        state, login = scope["state"], scope["path"] == TOKEN_PATH
        if FAILED in state or status == UNAUTHENTICATED:
            return await self._refuse_failure(scope, login)
        known = status == OK if login else PRINCIPAL in state
        if not known and status < INTERNAL_ERROR:
            # a form without credentials, or a token on a public endpoint, does not authenticate
            return await self.refuse_anonymous(scope)
        return None

    async def _refuse_failure(self, scope: Scope, login: bool) -> RateLimited | None:
        wait_s = self.blocked_s(scope)
        if not wait_s:
            if login and (refused := await self.refuse_anonymous(scope)) is not None:
                return refused
            decision = await self.count_failure(self.address_of(scope))
            wait_s = 0 if decision.allowed else decision.retry_after_s
        return RateLimited("too many failed requests from this address", retry_after_s=wait_s) if wait_s else None

    async def count_anonymous(self, address: str) -> Decision:
        """Counts a request without credentials."""
        return await self.limiter.take(f"address:{address}", self._address)

    async def count_failure(self, address: str) -> Decision:
        """Counts invalid credentials. An address with too many is blocked for `ip_block_s`: its further
        invalid credentials are answered 429 without being counted or audited. Valid credentials are not
        affected, because many callers may share the address of a gateway, and a caller cannot guess a signature or
        a 256-bit secret."""
        decision = await self.limiter.take(f"failures:{address}", self._failures)
        if not decision.allowed:
            if len(self._blocked_until_s) >= MAX_BLOCKED:
                del self._blocked_until_s[next(iter(self._blocked_until_s))]
            self._blocked_until_s[address] = self._clock.monotonic_s() + decision.retry_after_s
        return decision

    def blocked_s(self, scope: Scope) -> int:
        """Seconds until the request's address is no longer blocked; 0 if it is not blocked."""
        if not self._blocked_until_s:
            return 0
        address = self.address_of(scope)
        until_s = self._blocked_until_s.get(address)
        if until_s is None:
            return 0
        left_s = until_s - self._clock.monotonic_s()
        if left_s <= 0:
            self._blocked_until_s.pop(address, None)
            return 0
        return int(left_s) + 1

    def _quota_of(self, rate: int | None) -> Quota:
        if rate is None:
            return self._account
        if rate not in self._own:
            self._own[rate] = Quota("account", rate, max(1, int(rate * self._burst_ratio)))
        return self._own[rate]


def refusal(decision: Decision) -> RateLimited:
    """The error for a request that the decision does not allow."""
    return RateLimited(
        f"the limit is {decision.quota.per_minute:g} requests a minute", retry_after_s=decision.retry_after_s
    )
