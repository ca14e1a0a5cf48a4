"""Admin's own access token, for its calls to elements: signed here, since no account is needed to ask oneself."""

from __future__ import annotations

from artstore.clock import Clock
from artstore.contracts.tokens import EXPIRES_IN_S, ISSUER, Permission, Role

from .issue import Issuer

PERMISSIONS = frozenset({Permission.STORAGE_READ, Permission.STORAGE_WRITE})
RENEW_BEFORE_S = 300


class OwnToken:
    """A token factory for Peers."""

    def __init__(self, issuer: Issuer, clock: Clock) -> None:
        self._issuer, self._clock = issuer, clock
        self._token = ""
        self._renew_at_s = float("-inf")

    async def __call__(self) -> str:
        now_s = self._clock.monotonic_s()
        if now_s >= self._renew_at_s:
            self._token = self._issuer.sign(ISSUER, ISSUER, Role.SERVICE, PERMISSIONS)
            self._renew_at_s = now_s + EXPIRES_IN_S - RENEW_BEFORE_S
        return self._token
