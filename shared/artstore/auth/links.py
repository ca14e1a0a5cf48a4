"""Signed links: a file's bytes without a token, until a time.

A link is `<claims>.<signature>`, both base64url: the claims are JSON, the signature is Ed25519 by admin's link key over the
encoded claims. There is one format and one algorithm, so nothing in a link chooses how it is verified.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from artstore.auth.keys import RemoteKeys, base64url
from artstore.clock import Clock
from artstore.errors import LinkRefused

Disposition = Literal["inline", "attachment"]

MAX_LINK_CHARS = 1024
_CONTEXT = b"artstore link 1\n"
"""Signed before the claims, so that no other signature of the key is a link."""


class LinkOrderKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Idempotency-Key of a request for a link, which account's it is, and what it asks for."""

    client_id: str
    key: str
    fingerprint: str


class LinkOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """POST /api/auth/links: admin signs a link of this account. `token_issued_at_s` is of the token that asked for it."""

    account: str
    token_issued_at_s: int
    file_id: str
    disposition: Disposition
    expires_at_ms: int
    key: LinkOrderKey | None = None


class SignedLink(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer. The account's own end may be earlier than the end that was asked for."""

    link: str
    expires_at_ms: int
    replayed: bool = False
    """It was signed for an earlier request under the same key."""


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The claims. `issued_at_s` is by admin's clock, as the revocations of accounts are."""

    kid: str
    account: str
    file_id: str
    disposition: Disposition
    issued_at_s: int
    expires_at_ms: int


def link_kid(key: Ed25519PublicKey) -> str:
    return base64url(hashlib.sha256(key.public_bytes_raw()).digest())


def sign_link(link: Link, key: Ed25519PrivateKey) -> str:
    claims = base64url(msgspec.json.encode(link)).encode()
    return f"{claims.decode()}.{base64url(key.sign(_CONTEXT + claims))}"


class LinkVerifier:
    """Needs neither admin nor PostgreSQL: the keys are those that verify tokens' signatures, from the same sources."""

    def __init__(self, keys: RemoteKeys, clock: Clock) -> None:
        self._keys, self._clock = keys, clock

    async def verify(self, sent: str) -> Link:
        """Raises LinkRefused, with the link where this system has signed it."""
        link, claims, signature = _parse(sent)
        key = await self._keys.find_link_key(link.kid)
        if key is None:
            raise LinkRefused("the link is not valid")
        try:
            key.verify(signature, _CONTEXT + claims)
        except InvalidSignature as error:
            raise LinkRefused("the link is not valid") from error
        if 1000 * self._clock.unix_s() >= link.expires_at_ms:
            raise LinkRefused("the link has expired").of(link)
        if self._keys.is_link_revoked(link.kid, link.account, link.issued_at_s):
            raise LinkRefused("the link was revoked").of(link)
        return link


def _parse(sent: str) -> tuple[Link, bytes, bytes]:
    """The claims, the bytes that are signed, the signature. Only the spelling that `sign_link` writes is accepted."""
    claims, dot, signature = sent.partition(".")
    if len(sent) > MAX_LINK_CHARS or not dot or not sent.isascii():
        raise LinkRefused("the link is not valid")
    try:
        decoded, signed = _decode(claims), _decode(signature)
        return msgspec.json.decode(decoded, type=Link, strict=True), claims.encode(), signed
    except (ValueError, msgspec.MsgspecError) as error:
        raise LinkRefused("the link is not valid") from error


def _decode(text: str) -> bytes:
    """base64url without padding, in its one canonical spelling. Raises ValueError."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if base64url(raw) != text:
        raise ValueError("a different spelling of the same bytes")
    return raw
