"""Audit events, signed and chained.

`prev` is the SHA-256 of the event before it and `signature` is Ed25519, both over canonical JSON (RFC 8785).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import orjson
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from artstore.clock import rfc3339

GENESIS = "0" * 64
"""`prev` of a chain's first event."""
MAX_TEXT_CHARS = 500
MAX_INTEGER = 2**53 - 1
"""The largest integer that canonical JSON can represent exactly."""
FINGERPRINT_CHARS = 16

Signed = dict[str, Any]
"""An event as stored and exported: the members that `sign_event` writes, `signature` included. Checkpoints
and seals are signed in the same way."""


@dataclass(frozen=True, slots=True)
class Event:
    """An action to record. `action` is `noun:verb`; `user_id` is the account's id, or the name of the service that acts by
    itself; `resource` is the bare id. `metadata` holds text, integers, booleans, lists and objects."""

    action: str
    user_id: str
    resource: str
    result: Literal["success", "denied", "failure"] = "success"
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The last event of a chain, which the next event follows."""

    seq: int = 0
    hash: str = GENESIS


def sign_event(
    event: Event, *, service: str, chain: str, after: ChainHead, moment: datetime, key: Ed25519PrivateKey
) -> Signed:
    body: Signed = {
        "timestamp": rfc3339(moment),
        "service": service,
        "action": event.action,
        "user_id": _clean(event.user_id),
        "resource": _clean(event.resource),
        "result": event.result,
        "metadata": _clean(dict(event.metadata)),
        "chain": chain,
        "seq": after.seq + 1,
        "prev": after.hash,
    }
    return {**body, "signature": sign(body, key)}


def head_after(signed: Signed) -> ChainHead:
    return ChainHead(signed["seq"], hash_of(signed))


def canonical(value: Mapping[str, Any]) -> bytes:
    """The RFC 8785 form of a value that `_clean` has passed. orjson gives the same bytes for ASCII without
    fractions, 40 times faster; it writes infinity as null, so null goes the slow way.

    Raises ValueError or TypeError for a value without a canonical form.
    """
    quick = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return quick if quick.isascii() and b"null" not in quick else rfc8785.dumps(dict(value))


def sign(body: Mapping[str, Any], key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.sign(canonical(body))).decode()


def is_signed_by(signed: Mapping[str, Any], key: Ed25519PublicKey) -> bool:
    """True if `signature` is valid for all other members under `key`. Malformed input is False, not an error."""
    body = {name: value for name, value in signed.items() if name != "signature"}
    try:
        key.verify(base64.b64decode(signed["signature"], validate=True), canonical(body))
    except (InvalidSignature, ValueError, TypeError, KeyError, rfc8785.CanonicalizationError):
        return False
    return True


def hash_of(signed: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a signed event, checkpoint or seal: the `prev` of the next one."""
    return hashlib.sha256(canonical(signed)).hexdigest()


def fingerprint(public_key: bytes) -> str:
    """The first 16 hex digits of a raw public key's SHA-256. A writer's chain has it in its name, so no other
    key fits the chain."""
    return hashlib.sha256(public_key).hexdigest()[:FINGERPRINT_CHARS]


def _clean(value: Any) -> Any:
    """Reduces a value to what PostgreSQL and canonical JSON both support: no NUL, no lone surrogate, bounded
    text, integers only."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")[:MAX_TEXT_CHARS]
    if isinstance(value, Mapping):
        return {_clean(str(name)): _clean(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(part) for part in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return value
    return str(value)[:MAX_TEXT_CHARS]
