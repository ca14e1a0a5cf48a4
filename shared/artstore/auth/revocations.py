"""Revoked signing keys, and accounts whose tokens are revoked up to a time.

Admin publishes them in the JWKS document (RFC 7517 §5 allows more members), so they use the same sources as
the keys. A verifier never forgets a revocation that it has seen, so an older copy of the document restores
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

MEMBER = "revoked"
MAX_REVOKED = 100_000
"""Limit of remembered accounts and of keys; far more than change during the lifetime of a token."""


@dataclass(slots=True)
class Revocations:
    """`accounts`: subject → Unix second up to which its tokens are revoked. `keys`: revoked `kid`s."""

    accounts: dict[str, int] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)

    def covers(self, kid: str, subject: str, issued_at_s: float) -> bool:
        return issued_at_s <= self.accounts.get(subject, -1) or kid in self.keys

    def take(self, document: bytes, forget_before_s: float) -> None:
        """Adds the revocations of a JWKS document. Raises ValueError for a malformed one, and then changes
        nothing.

        Revocations of tokens that were issued before `forget_before_s` are dropped, because those tokens have
        expired.
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
        """The member of the JWKS document."""
        return {"accounts": self.accounts, "keys": sorted(self.keys)}


def _is_moments(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(moment, int) and not isinstance(moment, bool) for moment in value.values()
    )
