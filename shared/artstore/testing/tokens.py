"""Signing keys, and valid or invalid access tokens, for tests."""

from __future__ import annotations

import time
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from artstore.auth.keys import thumbprint, to_jwk
from artstore.clock import uuid7
from artstore.contracts.tokens import ALGORITHM, ISSUER, ROLE_PERMISSIONS, TOKEN_TYPE, Audience, Permission, Role


class Signer:
    """A key pair, a KeySource for verifiers, and tokens signed with the key."""

    def __init__(self) -> None:
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = thumbprint(self.private.public_key())

    async def find(self, kid: str) -> RSAPublicKey | None:
        return self.private.public_key() if kid == self.kid else None

    def valid(self, kid: str, subject: str, issued_at_s: float) -> bool:
        return kid == self.kid

    def jwks(self) -> bytes:
        return orjson.dumps({"keys": [to_jwk(self.kid, self.private.public_key())]})

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
