"""Tokens as only admin can sign them, with wrong things in them: the test takes the active key out of the database."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from artstore.contracts.tokens import ISSUER, ROLE_PERMISSIONS, Audience, Role

from .system import System

NONCE_BYTES = 12


@dataclass(frozen=True)
class Forger:
    kid: str
    private: RSAPrivateKey

    def claims(self, holder: Role = Role.ADMIN, **changes: Any) -> dict[str, Any]:
        now_s = int(time.time())
        right = {
            "sub": "00000000-0000-7000-8000-00000000f0f0",
            "client_id": "forged",
            "role": holder.value,
            "permissions": sorted(permission.value for permission in ROLE_PERMISSIONS[holder]),
            "iat": now_s,
            "exp": now_s + 600,
            "jti": "forged",
            "iss": ISSUER,
            "aud": [audience.value for audience in Audience],
            "rate": 100_000,
        }
        return {name: value for name, value in (right | changes).items() if value is not None}

    def sign(self, claims: dict[str, Any], key: RSAPrivateKey | None = None, **header: Any) -> str:
        fields = {"kid": self.kid, "typ": "at+jwt"} | header
        return jwt.encode(claims, key or self.private, algorithm="RS256", headers=fields)

    def unsigned(self, alg: str = "none") -> str:
        return f"{_b64({'alg': alg, 'typ': 'at+jwt', 'kid': self.kid})}.{_b64(self.claims())}."

    def hs256(self) -> str:
        """Algorithm confusion (RFC 8725 §2.1): the public key, which everybody has, as the secret."""
        public = self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        signed = f"{_b64({'alg': 'HS256', 'typ': 'at+jwt', 'kid': self.kid})}.{_b64(self.claims())}"
        mac = hmac.new(public, signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def load_forger(system: System) -> Forger:
    kid, sealed = asyncio.run(_active_key((system.keys / "database-url").read_text().strip()))
    secret = AESGCM(base64.b64decode((system.keys / "key-encryption-key").read_text()))
    der = secret.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], kid.encode())
    return Forger(kid, cast(RSAPrivateKey, serialization.load_der_private_key(der, None)))


async def _active_key(database_url: str) -> tuple[str, bytes]:
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        row = await connection.fetchrow("SELECT kid, private_sealed FROM signing_keys WHERE state = 'active'")
        return row["kid"], row["private_sealed"]
    finally:
        await connection.close()


def _b64(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()
