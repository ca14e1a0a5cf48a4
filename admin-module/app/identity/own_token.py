"""Admin's own access token, for its calls to elements: signed here, since no account is needed to ask oneself."""

from __future__ import annotations

from artstore.clock import Clock
from artstore.contracts.tokens import ISSUER, Permission, Role

from .issue import Issuer

PERMISSIONS = frozenset({Permission.STORAGE_READ, Permission.STORAGE_WRITE})


class OwnToken:
    """A token factory for Peers."""

    def __init__(self, issuer: Issuer, clock: Clock) -> None:
        self._issuer, self._clock = issuer, clock
        self._token = ""
        self._renew_at_s = float("-inf")

    async def __call__(self) -> str:
        now_s, lifetime_s = self._clock.monotonic_s(), self._issuer.lifetime_s
        if now_s >= self._renew_at_s:
            issued_s = int(self._clock.unix_s())
            self._token = self._issuer.sign(ISSUER, ISSUER, Role.SERVICE, PERMISSIONS, issued_s, lifetime_s)
            self._renew_at_s = now_s + lifetime_s / 2
        return self._token

    def void(self, token: str) -> None:
        """An element refused it: the key that signed it was revoked."""
        if token == self._token:
            self._renew_at_s = float("-inf")
