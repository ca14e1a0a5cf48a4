"""Small files that came together: one turn of the event loop logs all of them, and one acknowledges them.

The steps are those of put.py, which takes every file that must wait for something before it can be logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from artstore.contracts.files import MAX_ATTRIBUTES_BYTES
from artstore.errors import StorageFull
from artstore.failpoints import failpoint
from artstore.tracing import span

from .get import find_attributes_or_unreadable
from .locks import Hold
from .put import PutOrder, PutResult, PutSteps
from .receive import Digests
from .settle_late import may_settle_late, reserve_late, settle_late
from .store import Store
from .wal.log import OpenIntent


@dataclass(frozen=True, slots=True)
class _Logged:
    steps: PutSteps
    hold: Hold
    intent: OpenIntent


Outcome: TypeAlias = PutResult | Exception | None
"""None: nothing was done, and the file must be put alone, which may wait or fail."""


async def put_together(store: Store, puts: Sequence[tuple[PutOrder, bytes]]) -> list[Outcome]:
    """The outcome for each order and content. Must not be cancelled (`Store.complete`). Raises ElementFailed."""
    store.disk_health.require_writable()
    space = store.space.reservation()
    try:
        space.ensure(sum(len(content) + MAX_ATTRIBUTES_BYTES for _, content in puts))
    except StorageFull:  # perhaps one of them fits
        return [None] * len(puts)
    try:
        with reserve_late(store, len(puts)):
            begun = [_begin(store, order, content) for order, content in puts]
            with span("wal.commit", {"artstore.files": len(begun)}):
                return [await _finish(store, one) if isinstance(one, _Logged) else one for one in begun]
    finally:
        space.release()


def _begin(store: Store, order: PutOrder, content: bytes) -> _Logged | Exception | None:
    hold = store.locks.hold(order.file_id)
    if not _is_simple(store, order, content) or not hold.enter_free():
        return None
    try:
        steps, digests = PutSteps(store, order), Digests(order.expected)
        digests.update(content)
        steps.describe(len(content), digests.verified_sha256())
        # 1 WAL: the intent with bytes and attributes. 2 to 4 follow in the log's thread.
        return _Logged(steps, hold, steps.log_small(content))
    except Exception as error:  # of one file: the locks of the others must be released
        hold.leave()
        return error


def _is_simple(store: Store, order: PutOrder, content: bytes) -> bool:
    """Nothing is known about this id, and neither the catalog nor S3 is needed before the answer."""
    return (
        order.settle_late
        and store.files.log_carries_files
        and store.files.nonblocking_reads
        and len(content) <= store.limits.small_bytes
        and may_settle_late(store)
        and order.saga_id not in store.compensated
        and order.file_id not in store.unsettled
        and find_attributes_or_unreadable(store, order.file_id) is None
    )


async def _finish(store: Store, logged: _Logged) -> PutResult | Exception:
    steps = logged.steps
    try:
        await logged.intent.durable
        failpoint("put.published")
        attributes = steps.count()
        # 5 to 7 follow with those of other files.
        settle_late(store, steps.file_id, logged.intent)
        return PutResult(attributes, steps.encoded, created=True)
    except Exception as error:
        await steps.roll_back(logged.intent, error)
        return store.disk_health.explain(error) if isinstance(error, OSError) else error
    finally:
        logged.hold.leave()
