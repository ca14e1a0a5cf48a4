"""Expiry: temporary files whose time has come are deleted, by the same protocol as by a user's wish.

The catalog only says where to look; what counts is the attr.json at the moment of the delete, and an update in between wins.
"""

from __future__ import annotations

from datetime import datetime

from artstore.clock import parse_rfc3339
from artstore.contracts.files import Attributes
from artstore.errors import NotFound, RevisionMismatch
from artstore.logs import get_logger
from artstore.modes import Operation

from ..store.delete import delete
from ..store.get import load_attributes
from ..store.store import Store
from .rows import Rows

log = get_logger("element.upkeep")

PAGE = 500


def has_expired(attributes: Attributes, now: datetime) -> bool:
    """Pure. Only temporary files have an end."""
    if attributes.retention != "temporary" or attributes.expires_at is None:
        return False
    return parse_rfc3339(attributes.expires_at) <= now


async def expire(store: Store, rows: Rows, allowed: frozenset[Operation], now: datetime) -> int:
    """How many were deleted; at most PAGE. `allowed` by the element's mode. Raises Unavailable, ElementFailed."""
    if Operation.DELETE not in allowed or store.failing.reason is not None:
        return 0
    deleted = 0
    for file_id in await rows.find_expired(now, PAGE):
        try:
            attributes, _ = await load_attributes(store, file_id)
            if has_expired(attributes, now):
                await delete(store, file_id, attributes.revision)
                deleted += 1
        except (NotFound, RevisionMismatch):
            continue  # gone or changed meanwhile: the next round looks again
    if deleted:
        log.info("expired files deleted", deleted=deleted)
    return deleted
