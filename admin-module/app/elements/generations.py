"""Detects that the catalog was rolled back, and starts a new generation (docs/decisions/0008).

A generation starts under the registry's row lock, and only if the evidence still holds there. If two admins
have the same evidence, only one starts it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Record
from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.audit.event import Event
from artstore.clock import first_uuid7, rfc3339
from artstore.contracts.elements import CatalogMemory, ElementReport, RegistryState
from artstore.database import Database
from artstore.logs import get_logger

from ..audit.chain import SERVICE, Auditor
from .database_identity import DatabaseIdentity, identity_columns, identity_in, is_same
from .registry import lock_registry
from .rollback import CatalogState, find_rollback

log = get_logger("admin.generations")

CHECK_EVERY_S = 1.0
OTHER_DATABASE = "the database is not the one that was used before"
MAX_SENT = 32
"""Versions kept for an element whose acknowledgements do not arrive."""

_COLUMNS = "version, generation, generation_started_at, identity"
_START = text(
    f"""UPDATE registry SET generation = greatest(generation, :generation) + 1, version = greatest(version, :version) + 1,
        generation_started_at = now(), identity = :identity
    RETURNING {_COLUMNS}"""
)
_STORE_IDENTITY = text("UPDATE registry SET identity = :identity")
_FOLLOWED = text("SELECT generation, told FROM storage_elements WHERE element_id = :element_id")
_FOLLOW = text(
    """UPDATE storage_elements SET generation = :generation, told = CAST(:told AS bigint[]), reported_to = :reported_to
    WHERE element_id = :element_id"""
)
_RECONCILED = text(
    """SELECT element_id FROM storage_elements, registry
    WHERE storage_elements.generation >= registry.generation AND reported_to = :run"""
)
_BEHIND = "(SELECT count(*) FROM storage_elements WHERE storage_elements.generation < registry.generation)"


@dataclass(frozen=True, slots=True)
class Current:
    """The registry row, and the database and server process that answered."""

    version: int
    generation: int
    started_at: datetime
    identity: str | None
    """The database identity stored when this generation started; None before the first admin."""
    database: DatabaseIdentity

    @property
    def order(self) -> tuple[int, int]:
        return self.generation, self.version

    @property
    def is_other_database(self) -> bool:
        return self.identity is not None and not is_same(self.identity, self.database.value)

    @property
    def first_saga_id(self) -> str:
        """Upload sagas with lower ids began before this generation."""
        return str(first_uuid7(self.started_at.timestamp()))


class Generations:
    """One per process. `started` is called after a new generation is durable."""

    def __init__(
        self, database: Database, auditor: Auditor, registry: CollectorRegistry, started: Callable[[], None]
    ) -> None:
        self._database, self._auditor, self._started = database, auditor, started
        self._identity_columns: str | None = None
        """Learned on first use; for the life of the process."""
        self._generation = Gauge(
            "catalog_generation", "Generation of the catalog: 1, and 1 more for each rollback", registry=registry
        )
        self._behind = Gauge(
            "catalog_unreconciled_elements",
            "Elements that have not reconciled since the catalog was rolled back or lost; it may lack some of their files",
            registry=registry,
        )

    async def check(self) -> None:
        """Compare the database's identity with the stored one, and update the metrics. Raises Unavailable."""
        if self._identity_columns is None:
            async with self._database.autocommit() as conn:
                self._identity_columns = await identity_columns(conn)
        (row,) = await self._database.fetch(
            f"SELECT {_COLUMNS}, {self._identity_columns}, {_BEHIND} AS behind FROM registry"
        )
        current = _current(row, identity_in(row))
        if current.identity is None:
            async with self._database.autocommit() as conn:
                await conn.execute(_STORE_IDENTITY, {"identity": current.database.value})
        self._generation.set(current.generation)
        self._behind.set(row["behind"])
        if current.is_other_database:
            await self.start(OTHER_DATABASE, lambda now: now.is_other_database)

    async def start(self, reason: str, still: Callable[[Current], bool], seen: tuple[int, int] = (0, 0)) -> None:
        """Start a new generation above `seen` (generation, version), if `still` holds under the lock. Raises
        Unavailable."""
        async with self._database.begin() as conn:
            await lock_registry(conn)
            current = await self.load(conn)
            wanted = still(current)
            if wanted:
                await self._start(conn, current, reason, seen)
        if wanted:
            self._started()

    async def load(self, conn: AsyncConnection) -> Current:
        if self._identity_columns is None:
            self._identity_columns = await identity_columns(conn)
        statement = text(f"SELECT {_COLUMNS}, {self._identity_columns} FROM registry")
        row = (await conn.execute(statement)).mappings().one()
        return _current(row, identity_in(row))

    async def find_reconciled(self, conn: AsyncConnection, current: Current) -> list[str]:
        """Elements that have confirmed the present generation to this run of the database server."""
        return list((await conn.execute(_RECONCILED, {"run": current.database.server_run})).scalars())

    async def record_report(self, conn: AsyncConnection, announced: ElementReport) -> RegistryState:
        """Called in the transaction of the report, after it is stored: the registry is locked and has a new
        version."""
        current = await self.load(conn)
        if announced.catalog is None and announced.away_reason is not None:
            return _state(current)  # its store is not open, so it cannot send its memory
        memory = announced.catalog or CatalogMemory(empty=announced.capacity.files == 0)
        followed = (await conn.execute(_FOLLOWED, {"element_id": announced.id})).one()
        reason = find_rollback(memory, CatalogState(current.generation, current.version, followed.told))
        if current.is_other_database:
            reason = OTHER_DATABASE
        if reason is not None:
            seen = (max(memory.generation, memory.version_generation), memory.version)
            current = await self._start(conn, current, f"{announced.id}: {reason}", seen)
        told = [version for version in followed.told if version >= memory.version] + [current.version]
        reconciled = followed.generation if announced.catalog is None else memory.reconciled
        values = {
            "element_id": announced.id,
            "generation": current.generation if memory.empty else reconciled,
            "told": told[-MAX_SENT:],
            "reported_to": current.database.server_run,
        }
        await conn.execute(_FOLLOW, values)
        return _state(current)

    async def _start(self, conn: AsyncConnection, before: Current, reason: str, seen: tuple[int, int]) -> Current:
        """Needs the registry lock. After a crash before the commit, the same evidence starts it again."""
        values = {"generation": seen[0], "version": seen[1], "identity": before.database.value}
        started = _current((await conn.execute(_START, values)).mappings().one(), before.database)
        metadata = {
            "generation": started.generation,
            "version": started.version,
            "before": {"generation": before.generation, "version": before.version},
            "reason": reason,
        }
        await self._auditor.record(conn, Event("catalog:generation", SERVICE, "catalog", metadata=metadata))
        log.warning("new catalog generation started", **metadata)
        return started


def _state(current: Current) -> RegistryState:
    started_at = rfc3339(current.started_at)
    return RegistryState(generation=current.generation, generation_started_at=started_at, version=current.version)


def _current(row: Mapping[str, Any] | Record, database: DatabaseIdentity) -> Current:
    return Current(row["version"], row["generation"], row["generation_started_at"], row["identity"], database)
