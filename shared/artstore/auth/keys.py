"""Public signing keys by `kid`, as verifiers hold them.

Sources, in this order: admin's JWKS, the file with the last valid answer, the copy in Redis if a known key
has signed it. An unknown `kid` causes one refetch, which all waiting requests share, at most once in
REFETCH_EVERY_S. The document also carries revocations. While no source answers, the last known keys and
revocations stay in force.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, RSAPublicNumbers
from jwt.api_jws import PyJWS

from artstore.atomic_file import replace_file
from artstore.auth.revocations import Revocations
from artstore.clock import Clock
from artstore.contracts.tokens import ALGORITHM, MAX_LINK_S
from artstore.logs import get_logger
from artstore.tasks import spawn

log = get_logger("artstore.keys")

REFETCH_EVERY_S = 10.0
CHANGE_PAUSE_S = 0.2
"""Pause between a change notice and the refetch: the other admin instances get the notice at the same time
and need to reload."""
MAX_LIFETIME_S = MAX_LINK_S + 3600
"""Upper bound of the lifetime of tokens and links: older revocations of accounts are dropped."""
LINKS = "links"
"""The member of the JWKS document with the keys that verify links, as JWKs of RFC 8037. It is not in `keys`, because they
sign no token."""
MIN_KEY_BITS = 2048
MAX_KEYS = 16
COPY_TYPE = "artstore-jwks"
"""The `typ` header of the copy in Redis, so that an access token is not accepted as one or vice versa."""
_JWS = PyJWS(algorithms=[ALGORITHM])

FetchJwks = Callable[[], Awaitable[bytes | None]]


class KeySource(Protocol):
    async def find(self, kid: str) -> RSAPublicKey | None:
        """The key, or None if it is not published."""

    def valid(self, kid: str, subject: str, issued_at_s: float) -> bool:
        """True if the key is currently published and the token is not revoked. Called at each use of a token,
        cached or not."""


def thumbprint(key: RSAPublicKey) -> str:
    """The `kid` of a key: its RFC 7638 JWK thumbprint with SHA-256, base64url."""
    jwk = to_jwk_members(key)
    canonical = orjson.dumps({"e": jwk["e"], "kty": "RSA", "n": jwk["n"]})
    return base64url(hashlib.sha256(canonical).digest())


def to_jwk_members(key: RSAPublicKey) -> dict[str, str]:
    """The JWK members `n` and `e`, base64url."""
    numbers = key.public_numbers()
    return {"n": _uint(numbers.n), "e": _uint(numbers.e)}


def to_jwk(kid: str, key: RSAPublicKey) -> dict[str, str]:
    """The public key as a JWK (RFC 7517)."""
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, **to_jwk_members(key)}


def parse_jwks(document: bytes) -> dict[str, RSAPublicKey]:
    """Keys by `kid`. Keys other than RSA for RS256, too short ones, and those whose `kid` is not their
    thumbprint are ignored."""
    keys: dict[str, RSAPublicKey] = {}
    listed = orjson.loads(document).get("keys", [])
    for jwk in listed[:MAX_KEYS]:
        key = _from_jwk(jwk)
        if key is not None and key.key_size >= MIN_KEY_BITS and jwk.get("kid") == thumbprint(key):
            keys[jwk["kid"]] = key
    return keys


def parse_link_keys(document: bytes) -> dict[str, Ed25519PublicKey]:
    """The keys of LINKS by `kid`. Raises ValueError, KeyError or TypeError for a malformed one."""
    listed = orjson.loads(document).get(LINKS, [])
    return {jwk["kid"]: Ed25519PublicKey.from_public_bytes(_bytes(jwk["x"])) for jwk in listed[:MAX_KEYS]}


def to_link_jwk(kid: str, key: Ed25519PublicKey) -> dict[str, str]:
    """RFC 8037 §2."""
    return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": kid, "x": base64url(key.public_bytes_raw())}


def _from_jwk(jwk: Any) -> RSAPublicKey | None:
    try:
        if (jwk["kty"], jwk.get("alg", "RS256"), jwk.get("use", "sig")) != ("RSA", "RS256", "sig"):
            return None
        return RSAPublicNumbers(_int(jwk["e"]), _int(jwk["n"])).public_key()
    except (KeyError, TypeError, ValueError):
        return None


class RemoteKeys:
    """Admin's keys, as fetched and cached by another service."""

    def __init__(
        self,
        sources: Sequence[tuple[str, FetchJwks]],
        file: Path | None,
        clock: Clock,
        signed_copy: FetchJwks | None = None,
    ) -> None:
        self._sources, self._file, self._clock, self._signed_copy = sources, file, clock, signed_copy
        self._keys: dict[str, RSAPublicKey] = {}
        self._link_keys: dict[str, Ed25519PublicKey] = {}
        self._revoked = Revocations()
        self._tried_s = float("-inf")
        self._refetch: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> RSAPublicKey | None:
        if kid not in self._keys:
            await self._refetch_if_due()
        return self._keys.get(kid)

    async def find_link_key(self, kid: str) -> Ed25519PublicKey | None:
        if kid not in self._link_keys:
            await self._refetch_if_due()
        return self._link_keys.get(kid)

    def is_link_revoked(self, kid: str, account: str, issued_at_s: int) -> bool:
        return kid not in self._link_keys or self._revoked.covers(kid, account, issued_at_s)

    def valid(self, kid: str, subject: str, issued_at_s: float) -> bool:
        return kid in self._keys and not self._revoked.covers(kid, subject, issued_at_s)

    async def refresh(self) -> None:
        """Fetches the keys. Called every JWKS_REFRESH_S, so a new key is known before its first token, and a
        revocation soon."""
        await self._shared_refetch()

    async def changed(self, _message: str) -> None:
        """Handler of admin's change notice."""
        await asyncio.sleep(CHANGE_PAUSE_S)
        await self._shared_refetch()

    async def check(self) -> None:
        """The readiness check: raises while no key is known, because no request could be authenticated."""
        if not self._keys:
            await self._shared_refetch()
        if not self._keys:
            raise ConnectionError("no signing keys are known yet")

    async def _refetch_if_due(self) -> None:
        if self._clock.monotonic_s() - self._tried_s >= REFETCH_EVERY_S:
            await self._shared_refetch()
        elif self._refetch is not None:
            await asyncio.shield(self._refetch)

    async def _shared_refetch(self) -> None:
        if self._refetch is None:
            self._tried_s = self._clock.monotonic_s()
            self._refetch = spawn("signing-keys", self._fetch())
            self._refetch.add_done_callback(self._forget_refetch)
        await asyncio.shield(self._refetch)

    def _forget_refetch(self, _task: asyncio.Task[None]) -> None:
        self._refetch = None

    async def _fetch(self) -> None:
        for name, fetch in self._sources:
            document = await fetch()
            if document is not None and self._adopt(name, document):
                await asyncio.to_thread(self._save, document)
                return
        if not self._keys and self._file is not None and self._file.exists():
            self._adopt("file", await asyncio.to_thread(self._file.read_bytes))
        signed = None if self._signed_copy is None else await self._signed_copy()
        if signed is not None:
            await self._adopt_signed(signed)

    async def _adopt_signed(self, signed: bytes) -> None:
        try:
            document = verify_jwks(signed, self._keys)
        except ValueError as error:
            log.warning("signed JWKS copy refused", error=str(error))
            return
        if not self._keys:
            log.warning("signing keys adopted from an unverified copy")
        if self._adopt("copy", document):
            await asyncio.to_thread(self._save, document)

    def _adopt(self, source: str, document: bytes) -> bool:
        try:
            keys, link_keys = parse_jwks(document), parse_link_keys(document)
            self._revoked.take(document, self._clock.unix_s() - MAX_LIFETIME_S)
        except (ValueError, AttributeError, TypeError, KeyError):
            keys, link_keys = {}, {}
        keys = {kid: key for kid, key in keys.items() if kid not in self._revoked.keys}
        if not keys:
            log.warning("signing keys unusable", source=source)
            return False
        if keys.keys() != self._keys.keys():
            log.info("signing keys adopted", source=source, kids=sorted(keys))
        self._keys = keys
        self._link_keys = {kid: key for kid, key in link_keys.items() if kid not in self._revoked.keys}
        return True

    def _save(self, document: bytes) -> None:
        if self._file is None:
            return
        try:
            replace_file(self._file, document)
        except OSError as error:  # a full disk must not lead to refused tokens
            log.warning("signing keys file not written", path=str(self._file), error=str(error))


def base64url(raw: bytes) -> str:
    """base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _uint(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _int(text: str) -> int:
    return int.from_bytes(_bytes(text), "big")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sign_jwks(document: bytes, kid: str, key: RSAPrivateKey) -> bytes:
    """The document as a compact JWS (RFC 7515), for Redis. Without the signature anybody who can write to Redis could
    make services accept a key of their own while admin is unavailable."""
    return _JWS.encode(document, key, ALGORITHM, {"kid": kid, "typ": COPY_TYPE}).encode()


def verify_jwks(signed: bytes, known: Mapping[str, RSAPublicKey]) -> bytes:
    """The JWKS document. Raises ValueError unless one of the `known` keys has signed it; without any known
    key it is accepted unverified."""
    try:
        header = jwt.get_unverified_header(signed)
        if header.get("typ") != COPY_TYPE:
            raise ValueError("it is not a copy of the keys")
        key = known.get(str(header.get("kid")))
        if known and key is None:
            raise ValueError("it is not signed by a known key")
        options = {"verify_signature": key is not None}
        document: bytes = _JWS.decode(signed, key or "", algorithms=[ALGORITHM], options=options)  # type: ignore[arg-type]
    except jwt.PyJWTError as error:
        raise ValueError("the signature does not match its key id") from error
    return document
