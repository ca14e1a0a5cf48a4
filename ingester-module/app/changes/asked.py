"""The body of a client's PATCH, and what it asks of the element."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from artstore.clock import rfc3339
from artstore.contracts.files import MAX_TTL_DAYS, Changes, check_changes
from artstore.errors import InvalidFields


class AskedChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unset fields stay unchanged. `ttl_days` is counted from the time of the request."""

    filename: str | msgspec.UnsetType = msgspec.UNSET
    tags: list[str] | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    ttl_days: int | msgspec.UnsetType = msgspec.UNSET
    retention: Literal["permanent"] | msgspec.UnsetType = msgspec.UNSET
    """Makes a temporary file permanent. Asked alone, because the file moves to another element."""

    @property
    def makes_permanent(self) -> bool:
        """Raises InvalidFields when more is asked beside it."""
        if self.retention is msgspec.UNSET:
            return False
        if self != AskedChanges(retention=self.retention):
            raise InvalidFields("retention must be changed alone", fields=["retention"])
        return True

    def to_changes(self, now: datetime) -> Changes:
        """Raises InvalidFields."""
        changes = Changes(filename=self.filename, tags=self.tags, metadata=self.metadata)
        if self.ttl_days is not msgspec.UNSET:
            if not 1 <= self.ttl_days <= MAX_TTL_DAYS:
                raise InvalidFields(f"ttl_days must be a whole number from 1 to {MAX_TTL_DAYS}", fields=["ttl_days"])
            changes = msgspec.structs.replace(changes, expires_at=rfc3339(now + timedelta(days=self.ttl_days)))
        check_changes(changes)
        return changes
