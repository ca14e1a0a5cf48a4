"""Verifies access tokens (RFC 9068, checks after RFC 8725) and turns them into a Principal. Results are
cached for up to a minute."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import jwt

from artstore.auth.keys import KeySource
from artstore.clock import Clock
from artstore.contracts.tokens import ALGORITHM, ISSUER, ROLE_PERMISSIONS, TOKEN_TYPE, Audience, Permission, Role
from artstore.errors import Unauthenticated

CACHE_S = 60
"""Limit for a cached result. The KeySource is asked at each use, so revocations take effect earlier."""
CACHE_ENTRIES = 10_000
REFUSED_ENTRIES = 10_000
"""Cached refusals of tokens that can never become valid, so a client that repeats one costs only a hash."""
LEEWAY_S = 5
"""Tolerated difference between the clocks of two machines."""
MAX_TOKEN_BYTES = 8192
_ALLOWED_HEADER = frozenset({"alg", "kid", "typ"})
_REQUIRED_CLAIMS = ["sub", "client_id", "role", "permissions", "iat", "exp", "jti", "iss", "aud"]


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated account and its permissions."""

    client_id: str
    subject: str
    role: Role
    permissions: frozenset[Permission]
    issued_at_s: float
    expires_at_s: float
    rate_per_minute: int | None = None
    """The account's own rate limit; None for the service's default."""


class NeverValid(Unauthenticated):
    """A token that is refused permanently, whatever keys are published."""


class TokenVerifier:
    """The verifier of one service; `audience` is the service's own name."""

    def __init__(self, keys: KeySource, audience: Audience, clock: Clock) -> None:
        self._keys, self._audience, self._clock = keys, audience, clock
        self._cache: dict[bytes, tuple[float, str, Principal]] = {}
        self._refused: dict[bytes, str] = {}

    async def verify(self, token: str) -> Principal:
        """The caller. Raises Unauthenticated with a reason that helps an honest client but not an attacker."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        now_s = self._clock.unix_s()
        if (reason := self._refused.get(digest)) is not None:
            raise Unauthenticated(reason)
        cached = self._cache.get(digest)
        if cached is None or now_s >= cached[0]:
            cached = await self._remember(digest, token, now_s)
        _, kid, principal = cached
        if not self._keys.valid(kid, principal.subject, principal.issued_at_s):
            raise Unauthenticated("the token was revoked")
        return principal

    async def _remember(self, digest: bytes, token: str, now_s: float) -> tuple[float, str, Principal]:
        try:
            kid, principal = await self._verify(token, now_s)
        except NeverValid as error:
            if len(self._refused) >= REFUSED_ENTRIES:
                self._refused.clear()
            self._refused[digest] = error.detail
            raise
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.clear()
        entry = self._cache[digest] = (min(now_s + CACHE_S, principal.expires_at_s), kid, principal)
        return entry

    async def _verify(self, token: str, now_s: float) -> tuple[str, Principal]:
        if len(token) > MAX_TOKEN_BYTES:
            raise NeverValid("the token is too long")
        kid = _checked_kid(token)
        key = await self._keys.find(kid)
        if key is None:
            raise Unauthenticated("the token's key id is unknown")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._audience.value,
                issuer=ISSUER,
                # times are checked below, by our Clock
                options={"require": _REQUIRED_CLAIMS, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.InvalidAudienceError as error:
            raise NeverValid("the token is for another service") from error
        except jwt.PyJWTError as error:
            raise NeverValid("the token is not valid") from error
        return kid, _to_principal(claims, now_s)


def _checked_kid(token: str) -> str:
    """The key id. Headers with members other than ours (`crit`, `jku`, `jwk`, `x5c` …) are refused."""
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise NeverValid("the token cannot be read") from error
    if header.get("alg") != ALGORITHM or header.get("typ") != TOKEN_TYPE or header.keys() - _ALLOWED_HEADER:
        raise NeverValid("the token's header is not one of ours")
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise NeverValid("the token has no key id")
    return kid


def _to_principal(claims: dict[str, Any], now_s: float) -> Principal:
    times = [claims[name] for name in ("exp", "iat", "nbf") if name in claims]
    if any(isinstance(t, bool) or not isinstance(t, int | float) or not math.isfinite(t) for t in times):
        raise NeverValid("the token's times must be numbers")
    if claims["exp"] <= now_s:
        raise NeverValid("the token has expired")
    if max(claims["iat"], claims.get("nbf", 0)) > now_s + LEEWAY_S:
        raise Unauthenticated("the token is not valid yet")
    try:
        role = Role(claims["role"])
        permissions = frozenset(Permission(name) for name in claims["permissions"])
    except (ValueError, TypeError) as error:
        raise NeverValid("the token's role or permissions are not known") from error
    if role is not Role.SERVICE and not permissions <= ROLE_PERMISSIONS[role]:
        raise NeverValid("the token has permissions that its role does not allow")
    if not isinstance(claims["client_id"], str) or not isinstance(claims["sub"], str):
        raise NeverValid("the token has no account")
    rate = claims.get("rate")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int) or rate < 1):
        raise NeverValid("the token's rate must be a positive integer")
    return Principal(
        claims["client_id"], claims["sub"], role, permissions, float(claims["iat"]), float(claims["exp"]), rate
    )
