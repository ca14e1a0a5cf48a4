"""Expiry: temporary files whose time has come are deleted, by the same protocol as by a user's wish.

The catalog only says where to look; what counts is the attr.json at the moment of the delete, and an update in between wins.
"""

from __future__ import annotations

import asyncio
import enum
from datetime import datetime

from artstore.clock import parse_rfc3339
from artstore.contracts.files import Attributes
from artstore.errors import ArtStoreError, NotFound, RevisionMismatch
from artstore.logs import get_logger
from artstore.modes import Operation

from ..store.delete import delete
from ..store.get import load_attributes
from ..store.store import Store
from .rows import FIRST_DUE, Due, Rows

log = get_logger("element.upkeep")

PAGE = 512
AT_ONCE = 128
"""Deletes under way at a time: they share the log's syncs and the catalog's transactions."""


def has_expired(attributes: Attributes, now: datetime) -> bool:
    """Pure. Only temporary files have an end."""
    if attributes.retention != "temporary" or attributes.expires_at is None:
        return False
    return parse_rfc3339(attributes.expires_at) <= now


async def expire(store: Store, rows: Rows, allowed: frozenset[Operation], now: datetime) -> int:
    """How many were deleted: all that are due, page by page. `allowed` by the element's mode. Raises Unavailable, ElementFailed.

    A file that is damaged, gone or cannot be deleted is passed; the next round tries it again, after all others.
    """
    if Operation.DELETE not in allowed or store.disk_health.failure is not None:
        return 0
    deleted = passed = 0
    after: Due = FIRST_DUE
    while page := await rows.find_expired(now, after, PAGE):
        for start in range(0, len(page), AT_ONCE):
            some = page[start : start + AT_ONCE]
            outcomes = await asyncio.gather(*(_expire_one(store, file_id, now) for _, file_id in some))
            deleted += outcomes.count(Outcome.DELETED)
            passed += outcomes.count(Outcome.PASSED)
            store.disk_health.require_writable()
        after = page[-1]
    if deleted or passed:
        log.info("expired files deleted", deleted=deleted, passed=passed)
    return deleted


class Outcome(enum.Enum):
    DELETED = "deleted"
    PASSED = "passed"
    NOT_DUE = "not due"
    """Gone or changed since the catalog was asked."""


async def _expire_one(store: Store, file_id: str, now: datetime) -> Outcome:
    try:
        attributes, _ = await load_attributes(store, file_id)
        if not has_expired(attributes, now):
            return Outcome.NOT_DUE
        await delete(store, file_id, attributes.revision)
    except (NotFound, RevisionMismatch):
        return Outcome.NOT_DUE
    except (ArtStoreError, OSError) as error:
        log.warning("expired file not deleted", file_id=file_id, error=str(error))
        return Outcome.PASSED
    return Outcome.DELETED
