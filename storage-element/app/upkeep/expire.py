"""Expiry: delete temporary files whose `expires_at` has passed, by the same protocol as a user's delete.

The catalog only proposes files. The attr.json at the moment of the delete decides, so an update in between
wins. The audit log names the element as the account.
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
from artstore.tracing import root_span

from ..store.delete import delete
from ..store.get import load_attributes
from ..store.store import Store
from .rows import FIRST_DUE, Due, Rows

log = get_logger("element.upkeep")

PAGE = 512
CONCURRENCY = 128
"""Concurrent deletes: they share the syncs of the log and the transactions of the catalog."""


def has_expired(attributes: Attributes, now: datetime) -> bool:
    """Pure. Only temporary files expire."""
    if attributes.retention != "temporary" or attributes.expires_at is None:
        return False
    return parse_rfc3339(attributes.expires_at) <= now


async def expire(store: Store, rows: Rows, allowed: frozenset[Operation], now: datetime) -> int:
    """Delete all expired files, page by page, and return their number. `allowed` by the element's mode.
    Raises Unavailable, ElementFailed.

    A file that is damaged, deleted meanwhile or cannot be deleted is skipped; the next round tries it again,
    after all others.
    """
    if Operation.DELETE not in allowed or store.disk_health.failure is not None:
        return 0
    deleted = skipped = 0
    after: Due = FIRST_DUE
    while page := await rows.find_expired(now, after, PAGE):
        for start in range(0, len(page), CONCURRENCY):
            group = page[start : start + CONCURRENCY]
            outcomes = await asyncio.gather(*(_expire_one(store, file_id, now) for _, file_id in group))
            deleted += outcomes.count(ExpireOutcome.DELETED)
            skipped += outcomes.count(ExpireOutcome.SKIPPED)
            store.disk_health.require_writable()
        after = page[-1]
    if deleted or skipped:
        log.info("expired files deleted", deleted=deleted, skipped=skipped)
    return deleted


class ExpireOutcome(enum.Enum):
    DELETED = "deleted"
    SKIPPED = "skipped"
    NOT_DUE = "not due"
    """Deleted or changed since the catalog was queried."""


async def _expire_one(store: Store, file_id: str, now: datetime) -> ExpireOutcome:
    try:
        attributes, _ = await load_attributes(store, file_id)
        if not has_expired(attributes, now):
            return ExpireOutcome.NOT_DUE
        with root_span("expire", {"artstore.file_id": file_id}):
            await delete(store, file_id, attributes.revision, account=store.element_id)
    except (NotFound, RevisionMismatch):
        return ExpireOutcome.NOT_DUE
    except (ArtStoreError, OSError) as error:
        log.warning("expired file not deleted", file_id=file_id, error=str(error))
        return ExpireOutcome.SKIPPED
    return ExpireOutcome.DELETED
