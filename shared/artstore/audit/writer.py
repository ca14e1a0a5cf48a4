"""A service's own audit chain: events are safe on its disk at once and go to PostgreSQL as soon as that is there.

Admin's changes have a transaction of their own to be recorded in (admin-module/app/audit/chain.py). What other services do, and
every denied access, has none: so it is written here, before the caller gets the answer.
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

from artstore.audit.event import Event, Signed, fingerprint, head_after, sign_event
from artstore.audit.spool import Spool
from artstore.audit.store import ship_events
from artstore.audit.strangers import Strangers, counted
from artstore.clock import Clock
from artstore.config import ServiceSettings
from artstore.contracts.tokens import Audience
from artstore.errors import StartRefused, Unavailable
from artstore.failpoints import failpoint
from artstore.groups import Group
from artstore.logs import get_logger
from artstore.tasks import Tasks, wait_or_timeout

log = get_logger("artstore.audit")

EVENTS_AT_ONCE = 128
MAX_WAITING = 50_000
"""Events kept while PostgreSQL is away; then what must be recorded is refused, and denials are counted in memory."""
MAX_HELD = 10_000
"""Pairs of account and action whose denials are counted in memory while neither disk nor PostgreSQL takes them."""
SHIP_AT_ONCE = 500
SHIP_EVERY_S = 1.0
DISPLACED = "audit.displaced"
EMPTY_FROM_BYTES = 64 * 1024
"""Events that PostgreSQL has stay in the file until there are so many: taking them out costs two syncs."""


class Transactions(Protocol):
    """What the writer needs of `artstore.database.Database`."""

    def begin(self) -> AbstractAsyncContextManager[AsyncConnection]: ...


class AuditWriter:
    """One per process. Opened with the service, it ships once `ship_to` has told it where."""

    def __init__(
        self, service: str, folder: Path | None, clock: Clock, tasks: Tasks, registry: CollectorRegistry
    ) -> None:
        self._service, self._clock, self._tasks = service, clock, tasks
        self._spool = Spool(folder)
        public_key = self._spool.key.public_key()
        self._public_key = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.chain = f"{service}:{fingerprint(self._public_key)}"
        self._waiting: deque[Signed] = deque(self._spool.left)
        self._group: Group[Event, None] = Group(self._append, max_items=EVENTS_AT_ONCE)
        self._file = asyncio.Lock()
        self._woken = asyncio.Event()
        self._strangers = Strangers()
        self._held: dict[tuple[str, str], tuple[Event, int]] = {}
        self._aggregated = Counter(
            "audit_denials_aggregated_total", "Denials recorded in the count of another one's event", registry=registry
        )
        self._dropped = Counter("audit_events_dropped_total", "Denials that were not recorded", registry=registry)
        waiting = Gauge("audit_events_waiting", "Events PostgreSQL does not have yet", registry=registry)
        waiting.set_function(lambda: len(self._waiting))
        if not self._spool.durable:
            log.warning("audit events are kept in memory only", missing="AUDIT_FOLDER")

    def ship_to(self, database: Transactions) -> None:
        self._tasks.forever("ship-audit", lambda: self._ship(database), pause_s=0.0)

    def close(self) -> None:
        """Another process may take over the folder now."""
        self._spool.close()

    async def record(self, event: Event) -> None:
        """Safe when it returns. Raises Unavailable when it cannot be kept: then the action must not be acknowledged."""
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("too many audit events wait for the database", away="database")
        await self._group.add(event)

    async def note_denied(self, event: Event, stranger: str | None = None) -> None:
        """For what was refused anyway: a full disk does not change the refusal.

        `stranger`: by whom denials without valid credentials are counted (strangers.py). None: of an account that has proved
        who it is. Each of these is an event of its own, or counted until it can be recorded.
        """
        await self._record_due()
        if stranger is None:
            await self._record_or_hold(counted(event, 1))
            return
        at_once = self._strangers.add(stranger, event, self._clock.monotonic_s())
        if at_once is None:
            self._aggregated.inc()
        else:
            await self._record_or_drop(at_once)

    async def finish(self) -> None:
        """Records all that is only counted so far. Called when nothing is refused any more."""
        for event in self._strangers.close():
            await self._record_or_drop(event)
        await self._record_held()

    async def _record_due(self) -> None:
        for event in self._strangers.due(self._clock.monotonic_s()):
            await self._record_or_drop(event)

    async def _record_held(self) -> None:
        held, self._held = self._held, {}
        for event, count in held.values():
            await self._record_or_hold(counted(event, count))

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
        log.error("a denial was not recorded", error=error.detail, action=event.action, user_id=event.user_id)

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
                raise Unavailable("the audit log cannot be written") from error
            failpoint("audit.spooled")
            self._waiting.extend(signed)
        self._woken.set()
        return [None] * len(events)

    async def _ship(self, database: Transactions) -> None:
        if not self._waiting:
            await wait_or_timeout(self._woken, SHIP_EVERY_S)
            await self._record_due()
            await self._record_held()
        self._woken.clear()
        batch = [self._waiting[index] for index in range(min(SHIP_AT_ONCE, len(self._waiting)))]
        if not batch:
            return
        try:
            async with database.begin() as connection:
                displaced = await ship_events(connection, self.chain, self._public_key, batch)
        except SQLAlchemyError as error:
            # The tables are not there yet, or not any more: they come with admin's migrations.
            raise Unavailable("PostgreSQL refuses the audit events", away="database") from error
        # Before they leave the waiting ones: a crash here ships and finds them again.
        await self._keep(displaced)
        failpoint("audit.shipped")
        for _ in batch:
            self._waiting.popleft()
        if not self._waiting and self._spool.size_bytes >= EMPTY_FROM_BYTES:
            async with self._file:
                if not self._waiting:
                    await asyncio.shield(asyncio.to_thread(self._spool.empty))

    async def _keep(self, displaced: list[Signed]) -> None:
        """In their places stand forged events. As it was signed each goes to the log, and into a new event further on."""
        for event in displaced:
            again = event["action"] == DISPLACED
            true: Signed = event["metadata"]["event"] if again else event
            log.error("the place of an audit event was taken", displaced=true)
            if again:  # somebody has taken places in advance: no race with him
                await asyncio.sleep(SHIP_EVERY_S)
            await self.record(Event(DISPLACED, "-", f"{true['chain']}/{true['seq']}", "failed", {"event": true}))


def open_writer(
    settings: ServiceSettings, audience: Audience, clock: Clock, tasks: Tasks, registry: CollectorRegistry
) -> AuditWriter:
    """A module writes under its account's name, admin under its own. Raises StartRefused when AUDIT_FOLDER cannot be used."""
    service = str(getattr(settings, "service_client_id", audience.value))
    try:
        return AuditWriter(service, settings.audit_folder, clock, tasks, registry)
    except OSError as error:
        raise StartRefused(f"AUDIT_FOLDER cannot be used: {error}") from error
