"""What was taken back before its time: whole signing keys, and the tokens an account got until a moment.

Admin publishes it inside the JWKS document (RFC 7517 §5 lets it carry more than keys), so that it comes by the same ways as the
keys do. What a verifier has once seen it remembers, so that an older copy of the document gives nothing back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

MEMBER = "revoked"
MAX_REVOKED = 100_000
"""Accounts or keys remembered at most; far more than change in the life of a token."""


@dataclass(slots=True)
class Revocations:
    """`accounts`: subject → the last second whose tokens are void (unix). `keys`: kids that verify nothing any more."""

    accounts: dict[str, int] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)

    def covers(self, kid: str, subject: str, issued_at_s: float) -> bool:
        return issued_at_s <= self.accounts.get(subject, -1) or kid in self.keys

    def take(self, document: bytes, forget_before_s: float) -> None:
        """Adds what a JWKS document names. Raises ValueError for one that is malformed, and then takes nothing.

        `forget_before_s`: tokens issued before it have expired, and what voids only those is dropped.
        """
        told = orjson.loads(document).get(MEMBER, {})
        if not isinstance(told, dict):
            raise ValueError("the revocations must be an object")
        accounts, keys = told.get("accounts", {}), told.get("keys", [])
        if not _is_moments(accounts) or not isinstance(keys, list) or not all(isinstance(kid, str) for kid in keys):
            raise ValueError("the revocations have an unexpected shape")
        merged = {subject: max(moment, self.accounts.get(subject, 0)) for subject, moment in accounts.items()}
        kept = {subject: moment for subject, moment in self.accounts.items() if moment >= forget_before_s}
        self.accounts = dict(list({**kept, **merged}.items())[-MAX_REVOKED:])
        self.keys = set(list(self.keys.union(keys))[:MAX_REVOKED])

    def members(self) -> dict[str, Any]:
        """As the document carries it."""
        return {"accounts": self.accounts, "keys": sorted(self.keys)}


def _is_moments(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(moment, int) and not isinstance(moment, bool) for moment in value.values()
    )
