"""Seals: admin's signed statement that the log up to a checkpoint was verified and exported. Verification
starts at the newest seal, and the events that it covers may be deleted. The same code checks the database and
exported files."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from artstore.audit.check import Finding
from artstore.audit.event import GENESIS, Signed, hash_of, is_signed_by, sign
from artstore.clock import rfc3339

SEALS = "seals"
"""Used as the chain's name in findings about seals."""


def make_seal(
    last: Signed | None, checkpoint: Signed, sha256: str, events: int, moment: datetime, key: Ed25519PrivateKey
) -> Signed:
    """A signed seal on `checkpoint`. `sha256` is the digest of the archive file (hex), `events` the number of
    events in it."""
    body: Signed = {
        "type": "seal",
        "number": 1 if last is None else last["number"] + 1,
        "timestamp": rfc3339(moment),
        "prev": GENESIS if last is None else hash_of(last),
        "checkpoint": checkpoint,
        "archive": {"sha256": sha256, "events": events},
    }
    return {**body, "signature": sign(body, key)}


def check_seals(
    seals: Iterable[Signed], key: Ed25519PublicKey, *, linked: bool = True
) -> tuple[Signed | None, list[Finding]]:
    """The newest seal that `key` has signed, and the findings about all seals. With `linked=False` the seals
    are a selection, so they need not follow one another."""
    good: Signed | None = None
    findings = []
    for seal in seals:
        number = _number(seal)
        if not _is_whole(seal, key):
            findings.append(Finding("changed", SEALS, number, "its signature does not match its content"))
            continue
        expected = (1, GENESIS) if good is None else (good["number"] + 1, hash_of(good))
        if linked and (number, seal["prev"]) != expected:
            findings.append(Finding("deleted", SEALS, expected[0], f"seal {number} does not follow the one before it"))
        good = seal
    return good, findings


def _is_whole(seal: Signed, key: Ed25519PublicKey) -> bool:
    checkpoint: Any = seal.get("checkpoint")
    return is_signed_by(seal, key) and isinstance(checkpoint, dict) and is_signed_by(checkpoint, key)


def _number(seal: Signed) -> int:
    number = seal.get("number")
    return number if isinstance(number, int) else 0
