"""The hot path of a login: from credentials to an access token (RFC 6749 §4.4, RFC 9068)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from artstore.clock import Clock
from artstore.contracts.tokens import EXPIRES_IN_S, ISSUER, Permission, Role, audiences
from artstore.database import Database
from artstore.errors import InvalidScope, Unauthenticated
from artstore.groups import Group

from .accounts import Account, find_accounts
from .secrets import SecretHasher
from .signing import Signer

LOOKUP_BATCH = 128
"""Logins that share one SELECT."""
MAX_SCOPE_DETAIL = 300
_NOT_IN_DESCRIPTIONS = re.compile(r'[^\x20-\x7e]|["\\]')
"""Characters that RFC 6749 §5.2 excludes from `error_description`."""
OWN_PERMISSIONS = frozenset({Permission.STORAGE_READ, Permission.STORAGE_WRITE})


class LoginRefused(Unauthenticated):
    """Callers see the same text for every reason, and the member `error` of RFC 6749 §5.2. `reason` and `account` (an
    existing account's id) are for the audit log."""

    def __init__(self, reason: str, account: str | None = None) -> None:
        detail = "the client_id or the client_secret is not valid"
        super().__init__(detail, error="invalid_client", error_description=detail)
        self.reason, self.account = reason, account


def narrow(account: Account, scope: str) -> frozenset[Permission]:
    """The account's permissions that `scope` names (RFC 6749 §3.3), all of them without one. Raises InvalidScope."""
    if not scope:
        return account.permissions
    named = set(scope.split(" "))
    refused = sorted(named - account.permissions)
    if refused:
        detail = f"not a permission of this account: {', '.join(refused)}"[:MAX_SCOPE_DETAIL]
        shown = _NOT_IN_DESCRIPTIONS.sub("?", detail)
        raise InvalidScope(shown, error="invalid_scope", error_description=shown)
    return frozenset(Permission(name) for name in named)


class Issuer:
    """Checks credentials and signs tokens. `signer` returns the key that is active now."""

    def __init__(
        self,
        database: Database,
        hasher: SecretHasher,
        signer: Callable[[], Signer],
        clock: Clock,
        new_id: Callable[[], UUID],
        lifetime_s: int = EXPIRES_IN_S,
    ) -> None:
        self.lifetime_s = lifetime_s
        self._database, self._hasher, self._signer, self._clock, self._new_id = database, hasher, signer, clock, new_id
        self._lookups: Group[str, Account | None] = Group(self._find, max_items=LOOKUP_BATCH)

    async def authenticate(self, client_id: str, client_secret: str) -> Account:
        """The account, if it may have a token now. Raises LoginRefused, Unavailable."""
        # 1. read the account: concurrent logins share one SELECT, nothing is cached
        account = await self._lookups.add(client_id)
        # 2. compare the secret, in the same time whether the account exists or not
        now = self._clock.now()
        valid = self._hasher.matches(client_secret, account, now)
        if account is None or not valid:
            raise (
                LoginRefused("unknown client_id")
                if account is None
                else LoginRefused("wrong secret", str(account.account_id))
            )
        if not account.usable(now):
            raise LoginRefused("suspended" if account.suspended else "expired", str(account.account_id))
        return account

    def issue(self, account: Account, permissions: frozenset[Permission]) -> tuple[str, int]:
        """An access token for the account with these of its permissions, and its lifetime in seconds."""
        # 3. let the token end with the account, and date it after the last revocation, which may be of this
        #    second
        now = self._clock.now()
        issued_s = max(int(now.timestamp()), (account.void_through or 0) + 1)
        lifetime_s = self.lifetime_s
        if account.expires_at is not None:
            lifetime_s = max(1, min(lifetime_s, int((account.expires_at - now).total_seconds())))
        # 4. sign: about 250 µs at 2048 bits, too short to be worth a thread
        token = self.sign(
            str(account.account_id),
            account.client_id,
            account.role,
            permissions,
            issued_s,
            lifetime_s,
            account.rate_per_minute,
        )
        return token, lifetime_s

    def issue_reading_token(self) -> str:
        """For an element that reads a file from another one at admin's request."""
        readable = frozenset({Permission.STORAGE_READ})
        return self.sign(ISSUER, ISSUER, Role.SERVICE, readable, int(self._clock.unix_s()), self.lifetime_s)

    def sign(
        self,
        subject: str,
        client_id: str,
        role: Role,
        permissions: frozenset[Permission],
        issued_s: int,
        lifetime_s: int,
        rate_per_minute: int | None = None,
    ) -> str:
        signer = self._signer()
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "client_id": client_id,
            "role": role.value,
            "permissions": sorted(permission.value for permission in permissions),
            "aud": [str(audience) for audience in audiences(permissions)],
            "iat": issued_s,
            "exp": issued_s + lifetime_s,
            "jti": str(self._new_id()),
            **({} if rate_per_minute is None else {"rate": rate_per_minute}),
        }
        signed = signer.header + b"." + _base64url(orjson.dumps(claims))
        signature = signer.private_key.sign(signed, PKCS1v15(), SHA256())
        return (signed + b"." + _base64url(signature)).decode()

    async def _find(self, client_ids: list[str]) -> Sequence[Account | None]:
        async with self._database.autocommit() as conn:
            found = await find_accounts(conn, client_ids)
        return [found.get(client_id) for client_id in client_ids]


class OwnToken:
    """Admin's own access token for its calls to elements, signed here without an account. A token source for
    `Peers`."""

    def __init__(self, issuer: Issuer, clock: Clock) -> None:
        self._issuer, self._clock = issuer, clock
        self._token = ""
        self._renew_at_s = float("-inf")

    async def __call__(self) -> str:
        now_s, lifetime_s = self._clock.monotonic_s(), self._issuer.lifetime_s
        if now_s >= self._renew_at_s:
            issued_s = int(self._clock.unix_s())
            self._token = self._issuer.sign(ISSUER, ISSUER, Role.SERVICE, OWN_PERMISSIONS, issued_s, lifetime_s)
            self._renew_at_s = now_s + lifetime_s / 2
        return self._token

    def invalidate(self, token: str) -> None:
        """An element has refused `token`, because the key that signed it was revoked."""
        if token == self._token:
            self._renew_at_s = float("-inf")


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
