"""A service's own audit chain: events are synced to its disk and shipped to PostgreSQL as soon as that is
available.

Admin records its changes in the transaction that makes them (admin-module/app/audit/chain.py). The actions of
other services, and every denied request, have no such transaction: they are recorded here, before the caller
gets the answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.audit.denial_aggregator import DenialAggregator, with_count
from artstore.audit.event import Event, Signed, fingerprint, head_after, sign_event
from artstore.audit.spool import Spool
from artstore.audit.store import ship_events
from artstore.clock import Clock
from artstore.config import ServiceSettings
from artstore.contracts.tokens import Audience
from artstore.errors import DATABASE, StartRefused, Unavailable
from artstore.failpoints import failpoint
from artstore.groups import Group
from artstore.logs import get_logger
from artstore.tasks import Tasks, until_tick, wait_or_timeout
from artstore.tracing import root_span

log = get_logger("artstore.audit")

MAX_APPEND_EVENTS = 128
MAX_WAITING = 50_000
"""Events that may wait for PostgreSQL; beyond it actions that must be recorded are refused, and denials are
counted in memory."""
MAX_HELD = 10_000
"""Pairs of account and action whose denials are counted in memory while they cannot be recorded."""
SHIP_BATCH_EVENTS = 500
SHIP_EVERY_S = 1.0
DISPLACED = "audit:displaced"
EMPTY_FROM_BYTES = 64 * 1024
"""Shipped events stay in the file until it has this size: removing them costs two syncs."""


class Transactions(Protocol):
    """The part of `artstore.database.Database` that the writer uses."""

    def begin(self) -> AbstractAsyncContextManager[AsyncConnection]: ...


class AuditWriter:
    """One per process. It accepts events from the start, and ships them after `ship_to` has named the
    database."""

    def __init__(
        self, service: str, folder: Path | None, clock: Clock, tasks: Tasks, registry: CollectorRegistry
    ) -> None:
        self._service, self._clock, self._tasks = service, clock, tasks
        self._spool = Spool(folder)
        public_key = self._spool.key.public_key()
        self._public_key = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.chain = f"{service}:{fingerprint(self._public_key)}"
        self._waiting: deque[Signed] = deque(self._spool.left)
        self._group: Group[Event, None] = Group(self._append, max_items=MAX_APPEND_EVENTS)
        self._file = asyncio.Lock()
        self._woken = asyncio.Event()
        self._denials = DenialAggregator()
        self._held: dict[tuple[str, str], tuple[Event, int]] = {}
        self._aggregated = Counter(
            "audit_denials_aggregated_total", "Denials recorded in the count of another event", registry=registry
        )
        self._dropped = Counter("audit_events_dropped_total", "Denials that were not recorded", registry=registry)
        waiting = Gauge("audit_events_waiting", "Events that PostgreSQL does not have yet", registry=registry)
        waiting.set_function(lambda: len(self._waiting))
        if not self._spool.durable:
            log.warning("audit events are kept in memory only", missing="AUDIT_FOLDER")

    def ship_to(self, database: Transactions) -> None:
        self._tasks.forever("ship-audit", lambda: self._ship(database), pause_s=0.0)

    def close(self) -> None:
        """Releases the folder, so that another process may use it."""
        self._spool.close()

    async def record(self, event: Event) -> None:
        """Returns when the event is durable. Raises Unavailable when it cannot be stored: do not acknowledge
        the action then."""
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("too many audit events are waiting for the database", away=DATABASE)
        await self._group.add(event)

    async def record_denial(self, event: Event, caller: str | None = None) -> None:
        """Never raises: the request is refused in any case.

        `caller` is set for denials without valid credentials and names the group that they are aggregated by
        (denial_aggregator.py). It is None for an authenticated account: each of its denials is an event of
        its own, or is counted in memory until it can be recorded.
        """
        await self._record_due()
        if caller is None:
            await self._record_or_hold(with_count(event, 1))
            return
        immediate = self._denials.add(caller, event, self._clock.monotonic_s())
        if immediate is None:
            self._aggregated.inc()
        else:
            await self._record_or_drop(immediate)

    async def finish(self) -> None:
        """Records everything that is only counted so far. Call it after the last request."""
        for event in self._denials.close():
            await self._record_or_drop(event)
        await self._record_held()

    async def _record_due(self) -> None:
        for event in self._denials.due(self._clock.monotonic_s()):
            await self._record_or_drop(event)

    async def _record_held(self) -> None:
        held, self._held = self._held, {}
        for event, count in held.values():
            await self._record_or_hold(with_count(event, count))

    async def _record_or_hold(self, event: Event) -> None:
        try:
            await self.record(event)
        except Unavailable as error:
            key, count = (event.user_id, event.action), int(event.metadata["count"])
            first, before = self._held.get(key, (event, 0))
            if before or len(self._held) < MAX_HELD:
                self._held[key] = (first, before + count)
            else:
                self._drop(event, error)

    async def _record_or_drop(self, event: Event) -> None:
        try:
            await self.record(event)
        except Unavailable as error:
            self._drop(event, error)

    def _drop(self, event: Event, error: Unavailable) -> None:
        self._dropped.inc(int(event.metadata["count"]))
        log.error("denial not recorded", error=error.detail, action=event.action, user_id=event.user_id)

    async def _append(self, events: list[Event]) -> Sequence[None]:
        async with self._file:
            head, signed = self._spool.head, []
            for event in events:
                moment = self._clock.now()
                signed.append(
                    sign_event(
                        event,
                        service=self._service,
                        chain=self.chain,
                        after=head,
                        moment=moment,
                        key=self._spool.key,
                    )
                )
                head = head_after(signed[-1])
            was = self._spool.head
            try:
                await asyncio.shield(asyncio.to_thread(self._spool.append, signed))
            except OSError as error:
                self._spool.head = was
                raise Unavailable("the audit log cannot be written to disk") from error
            failpoint("audit.spooled")
            self._waiting.extend(signed)
        self._woken.set()
        return [None] * len(events)

    async def _ship(self, database: Transactions) -> None:
        if not self._waiting:
            await wait_or_timeout(self._woken, until_tick(SHIP_EVERY_S))
            await self._record_due()
            await self._record_held()
        self._woken.clear()
        batch = [self._waiting[index] for index in range(min(SHIP_BATCH_EVENTS, len(self._waiting)))]
        if not batch:
            return
        try:
            with root_span("audit.ship", {"artstore.events": len(batch)}):
                async with database.begin() as connection:
                    displaced = await ship_events(connection, self.chain, self._public_key, batch)
        except SQLAlchemyError as error:
            # The tables are not there yet, or not any more: they come with admin's migrations.
            raise Unavailable("PostgreSQL refuses the audit events", away=DATABASE) from error
        # Before they leave the waiting ones: a crash here ships and finds them again.
        await self._record_displaced(displaced)
        failpoint("audit.shipped")
        for _ in batch:
            self._waiting.popleft()
        if not self._waiting and self._spool.size_bytes >= EMPTY_FROM_BYTES:
            async with self._file:
                if not self._waiting:
                    await asyncio.shield(asyncio.to_thread(self._spool.empty))

    async def _record_displaced(self, displaced: list[Signed]) -> None:
        """Forged events have taken their numbers. Each displaced event is logged and recorded again inside a
        new event."""
        for event in displaced:
            again = event["action"] == DISPLACED
            true: Signed = event["metadata"]["event"] if again else event
            log.error("audit event displaced", displaced=true)
            if again:  # numbers were taken in advance: do not race with the attacker
                await asyncio.sleep(SHIP_EVERY_S)
            await self.record(Event(DISPLACED, "-", f"{true['chain']}/{true['seq']}", "failure", {"event": true}))


def open_writer(
    settings: ServiceSettings, audience: Audience, clock: Clock, tasks: Tasks, registry: CollectorRegistry
) -> AuditWriter:
    """The writer of one service, named after the module's account (admin: `admin`). Raises StartRefused if
    AUDIT_FOLDER is not usable."""
    service = str(getattr(settings, "service_client_id", audience.value))
    try:
        return AuditWriter(service, settings.audit_folder, clock, tasks, registry)
    except OSError as error:
        raise StartRefused(f"AUDIT_FOLDER cannot be used: {error}") from error
