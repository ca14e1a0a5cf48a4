"""Signing keys, and valid or invalid access tokens, for tests."""

from __future__ import annotations

import time
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from artstore.auth.keys import LINKS, thumbprint, to_jwk, to_link_jwk
from artstore.auth.links import Link, link_kid, sign_link
from artstore.auth.revocations import MEMBER, Revocations
from artstore.clock import uuid7
from artstore.contracts.tokens import ALGORITHM, ISSUER, ROLE_PERMISSIONS, TOKEN_TYPE, Audience, Permission, Role


class Signer:
    """A key pair, a KeySource for verifiers, and tokens signed with the key."""

    def __init__(self) -> None:
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = thumbprint(self.private.public_key())
        self.new_link_key()
        self.revoked = Revocations()

    def new_link_key(self) -> None:
        self.link_key = Ed25519PrivateKey.generate()
        self.link_kid = link_kid(self.link_key.public_key())

    def link(self, account: str, file_id: str, **claims: Any) -> str:
        """Valid for an hour, unless `claims` say otherwise."""
        now_s = int(time.time())
        given = {"issued_at_s": now_s, "expires_at_ms": 1000 * (now_s + 3600), "disposition": "attachment", **claims}
        return sign_link(Link(kid=self.link_kid, account=account, file_id=file_id, **given), self.link_key)

    async def find(self, kid: str) -> RSAPublicKey | None:
        return self.private.public_key() if kid == self.kid else None

    def valid(self, kid: str, subject: str, issued_at_s: float) -> bool:
        return kid == self.kid

    def jwks(self) -> bytes:
        links = [to_link_jwk(self.link_kid, self.link_key.public_key())]
        keys = [to_jwk(self.kid, self.private.public_key())]
        return orjson.dumps({"keys": keys, LINKS: links, MEMBER: self.revoked.members()})

    def claims(
        self, role: Role = Role.ADMIN, permissions: frozenset[Permission] | None = None, client_id: str = "tester"
    ) -> dict[str, Any]:
        now_s = int(time.time())
        held = ROLE_PERMISSIONS[role] if permissions is None else permissions
        return {
            "sub": client_id,
            "client_id": client_id,
            "role": role.value,
            "permissions": sorted(permission.value for permission in held),
            "iat": now_s,
            "exp": now_s + 1800,
            "jti": str(uuid7()),
            "iss": ISSUER,
            "aud": [audience.value for audience in Audience],
            "rate": 1_000_000,
        }

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        fields = {"kid": self.kid, "typ": TOKEN_TYPE, **header}
        return jwt.encode(claims, self.private, algorithm=ALGORITHM, headers=fields)

    def token(self, role: Role = Role.ADMIN, permissions: frozenset[Permission] | None = None) -> str:
        return self.sign(self.claims(role, permissions))
