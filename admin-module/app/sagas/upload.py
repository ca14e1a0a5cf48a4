"""The hot path of sagas: begin, commit and abort of uploads. Concurrent requests share one transaction.

The row lock decides every race. When a commit meets the expiry of its lease, the first to lock the row wins; the
other then sees the new state and is refused. Rows are locked in the order of their ids, so that transactions never
deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import msgspec
import orjson
from msgspec import structs
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.write import FileEntry, row_fault, row_of
from artstore.clock import Clock, first_uuid7
from artstore.contracts.files import Attributes
from artstore.contracts.idempotency import batch_uploaded, uploaded
from artstore.contracts.sagas import BatchKey, SagaResult, UploadSaga
from artstore.database import ASYNC_COMMIT, Database
from artstore.errors import ArtStoreError, Conflict, InvalidFields
from artstore.failpoints import failpoint
from artstore.groups import Group
from artstore.logs import request_id

from .idempotency import keep_answer, require_key
from .saga import KEEP_FINISHED_S, SagaEvent, SagaState, accepting, advance

MAX_BATCH_REQUESTS = 16
"""Requests that share one transaction; each holds up to MAX_GROUP sagas."""

_GIVEN = """jsonb_to_recordset($1::jsonb) AS given(saga_id uuid, file_id uuid, storage_element_id text, owner text)"""

# The element that the ingester has abandoned may still hold or receive data, which is removed later.
_ABANDONED = """array_remove(
    CASE WHEN kept.storage_element_id = excluded.storage_element_id THEN kept.abandoned
         ELSE array_append(array_remove(kept.abandoned, kept.storage_element_id), kept.storage_element_id) END,
    excluded.storage_element_id)"""

_BEGIN = f"""INSERT INTO sagas AS kept (saga_id, kind, state, file_id, storage_element_id, owner, due_at)
    SELECT saga_id, 'upload', 'begun', file_id, storage_element_id, owner, now() + make_interval(secs => $3::float8)
    FROM {_GIVEN}, {ASYNC_COMMIT} WHERE async_commit.level IS NOT NULL ORDER BY saga_id
    ON CONFLICT (saga_id) DO UPDATE SET due_at = excluded.due_at, updated_at = now(),
        abandoned = {_ABANDONED}, storage_element_id = excluded.storage_element_id
    WHERE kept.state = ANY($2::text[]) AND kept.file_id = excluded.file_id
    RETURNING saga_id::text"""
_ABORT = f"""INSERT INTO sagas AS kept (saga_id, kind, state, file_id, storage_element_id, owner, due_at, reason)
    SELECT saga_id, 'upload', 'compensating', file_id, storage_element_id, owner, now(), $3::text
    FROM {_GIVEN} ORDER BY saga_id
    ON CONFLICT (saga_id) DO UPDATE SET state = 'compensating', due_at = now(), updated_at = now(),
        abandoned = {_ABANDONED}, storage_element_id = excluded.storage_element_id, reason = excluded.reason
    WHERE kept.state = ANY($2::text[]) AND kept.file_id = excluded.file_id
    RETURNING saga_id::text"""


# A function, made by a migration, so that no statement on `files` has a part that writes another table. One durable
# transaction in one round trip.
_COMMIT = "SELECT saga_id::text, committed FROM commit_uploads($1::jsonb, $2::text[], $3::uuid)"
# Not `saga_id = ANY($1)`: see artstore.catalog.find.
_STATES = """SELECT found.* FROM unnest($1::uuid[]) AS wanted(saga_id) CROSS JOIN LATERAL (
        SELECT saga_id::text, state, file_id::text FROM sagas WHERE sagas.saga_id = wanted.saga_id LIMIT 1) AS found"""


@dataclass(frozen=True, slots=True)
class Commit:
    """`keyed`: commit only while a row of idempotency_keys names this saga, and store the answer there."""

    saga_id: str
    attributes: Attributes
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    sagas: list[UploadSaga]
    reason: str


@dataclass(slots=True)
class _Written:
    """Ids of the sagas of a group, by outcome."""

    committed: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    """Those whose idempotency key still names them."""
    faults: dict[str, str] = field(default_factory=dict)
    """Why PostgreSQL refuses a row."""


class UploadSagas:
    """One per process. `undo` is called when an abort has made work for the saga worker."""

    def __init__(self, database: Database, clock: Clock, lease_s: float, undo: Callable[[], None]) -> None:
        self._database, self._clock, self._undo = database, clock, undo
        self._lease_s = lease_s
        self._begins: Group[list[UploadSaga], list[SagaResult]] = Group(self._begin, max_items=MAX_BATCH_REQUESTS)
        self._commits: Group[list[Commit], list[SagaResult]] = Group(self._commit, max_items=MAX_BATCH_REQUESTS)

    async def begin(self, sagas: list[UploadSaga]) -> list[SagaResult]:
        """Begin, or renew the leases. Not durable at once, because a commit carries the whole record. Raises
        DatabaseUnavailable."""
        return await self._begins.add(sagas)

    async def commit(self, commits: list[Commit]) -> list[SagaResult]:
        """Durable on return: the files are in the catalog. Raises DatabaseUnavailable."""
        return await self._commits.add(commits)

    async def commit_batch(self, commits: list[Commit], key: BatchKey | None) -> None:
        """Durable on return: all files are in the catalog. Raises Conflict when a saga was undone or the key belongs to another
        attempt, InvalidFields with `faults` by saga id when PostgreSQL refuses rows, and DatabaseUnavailable; then none is."""
        failpoint("admin.commit_prepared")
        # A crash before its end leaves nothing of the commit, a crash after it leaves everything.
        try:
            async with self._database.begin() as connection:
                await self._commit_all(connection, commits, key)
        except (DBAPIError, InvalidFields, TypeError, ValueError) as error:
            if row_fault(error) is None:
                raise
            faults = await self._find_faults(commits)
            raise InvalidFields("the catalog refuses the attributes", fields=["metadata"], faults=faults) from error
        failpoint("admin.committed")

    async def _commit_all(self, connection: AsyncConnection, commits: list[Commit], key: BatchKey | None) -> None:
        if key is not None and await require_key(connection, key.saga_id) is not None:
            return  # a repeat of a commit that was made
        rows = await connection.exec_driver_sql(_COMMIT, self._commit_values(commits))
        done = {row.saga_id for row in rows if row.committed}
        if others := {commit.saga_id for commit in commits} - done:
            states = await connection.exec_driver_sql(_STATES, (list(others),))
            made = {row.saga_id for row in states if row.state == SagaState.COMMITTED}
            if made != others or done:
                raise Conflict(f"{len(others - made)} of {len(commits)} uploads can no longer be committed")
        if key is not None:
            await keep_answer(connection, key.saga_id, batch_uploaded(bytes(key.answer)))

    async def _find_faults(self, commits: list[Commit]) -> dict[str, str]:
        """Why PostgreSQL refuses rows, by saga id. Halves the commits and writes nothing."""
        try:
            async with self._database.begin() as connection:
                await connection.exec_driver_sql(_COMMIT, self._commit_values(commits))
                await connection.rollback()
            return {}
        except (DBAPIError, InvalidFields, TypeError, ValueError) as error:
            fault = row_fault(error)
            if fault is None:
                raise
            if len(commits) == 1:
                return {commits[0].saga_id: fault}
        middle = len(commits) // 2
        return {**await self._find_faults(commits[:middle]), **await self._find_faults(commits[middle:])}

    async def abort(self, abort: Abort) -> list[SagaResult]:
        """Durable on return, so that no commit can follow. The saga worker does the compensation."""
        sagas = {saga.saga_id: saga for saga in abort.sagas}
        states = _changed_by(SagaEvent.ABORT, SagaState.COMPENSATING)
        done = await self._advance(_ABORT, sagas.values(), states, abort.reason)
        others = await self._states_of(sagas.keys() - done)
        self._undo()
        return [
            _result(saga.saga_id, saga.file_id, SagaEvent.ABORT, SagaState.COMPENSATING, done, others)
            for saga in abort.sagas
        ]

    async def _begin(self, requests: list[list[UploadSaga]]) -> Sequence[list[SagaResult]]:
        sagas = {saga.saga_id: saga for request in requests for saga in request}
        states = _changed_by(SagaEvent.BEGIN, SagaState.BEGUN)
        done = await self._advance(_BEGIN, sagas.values(), states, self._lease_s)
        others = await self._states_of(sagas.keys() - done)
        return [
            [
                structs.replace(
                    _result(one.saga_id, one.file_id, SagaEvent.BEGIN, SagaState.BEGUN, done, others),
                    lease_s=self._lease_s,
                )
                for one in request
            ]
            for request in requests
        ]

    async def _commit(self, requests: list[list[Commit]]) -> Sequence[list[SagaResult]]:
        commits = {commit.saga_id: commit for request in requests for commit in request}
        written = _Written()
        await self._write(list(commits.values()), written)
        others = await self._states_of(commits.keys() - written.committed)
        keyed = {commit.saga_id for commit in commits.values() if commit.keyed}
        lost = keyed - written.committed - written.held
        lost -= {saga_id for saga_id, (state, _) in others.items() if state == SagaState.COMMITTED}

        def result(one: Commit) -> SagaResult:
            if one.saga_id in written.faults:
                fault = f"the catalog refuses the attributes: {written.faults[one.saga_id]}"
                return _refused(one.saga_id, "unknown", InvalidFields(fault, fields=["metadata"]))
            if one.saga_id in lost:
                return _conflict(one.saga_id, "unknown", "the Idempotency-Key now belongs to another attempt")
            file_id = one.attributes.file_id
            return _result(one.saga_id, file_id, SagaEvent.COMMIT, SagaState.COMMITTED, written.committed, others)

        return [[result(one) for one in request] for request in requests]

    async def _write(self, commits: list[Commit], written: _Written) -> None:
        """One durable transaction. A group with a row that PostgreSQL refuses is halved until the row is alone."""
        try:
            values = self._commit_values(commits)
            failpoint("admin.commit_prepared")
            # A crash before its end leaves nothing of the commit, a crash after it leaves everything.
            answered = await self._database.fetch(_COMMIT, *values)
            failpoint("admin.committed")
        except (asyncpg.PostgresError, InvalidFields, TypeError, ValueError) as error:
            fault = row_fault(error)
            if fault is None:
                raise
            if len(commits) == 1:
                written.faults[commits[0].saga_id] = fault
                return
            middle = len(commits) // 2
            await self._write(commits[:middle], written)
            await self._write(commits[middle:], written)
            return
        written.held |= {row["saga_id"] for row in answered}
        written.committed |= {row["saga_id"] for row in answered if row["committed"]}

    def _commit_values(self, commits: Iterable[Commit]) -> tuple[str, list[str], str]:
        """The parameters of _COMMIT."""
        rows = orjson.dumps([_row(commit) for commit in commits]).decode()
        oldest = str(first_uuid7(self._clock.unix_s() - KEEP_FINISHED_S))
        return rows, _changed_by(SagaEvent.COMMIT, SagaState.COMMITTED), oldest

    async def _advance(self, statement: str, sagas: Iterable[UploadSaga], states: list[str], value: object) -> set[str]:
        """The ids of the sagas that the statement changed or created."""
        rows = msgspec.json.encode(list(sagas)).decode()
        return {row["saga_id"] for row in await self._database.fetch(statement, rows, states, value)}

    async def _states_of(self, saga_ids: Iterable[str]) -> dict[str, tuple[SagaState, str]]:
        """(state, file_id) by saga id, for sagas that the statement did not change."""
        wanted = list(saga_ids)
        if not wanted:
            return {}
        rows = await self._database.fetch(_STATES, wanted)
        return {row["saga_id"]: (SagaState(row["state"]), row["file_id"]) for row in rows}


def _changed_by(event: SagaEvent, into: SagaState) -> list[str]:
    # Sagas already in `into` stay unchanged: a committed file may have been changed or deleted since.
    return [state for state in accepting(event, into) if state == SagaState.BEGUN]


def _result(
    saga_id: str,
    file_id: str,
    event: SagaEvent,
    into: SagaState,
    done: set[str],
    states: dict[str, tuple[SagaState, str]],
) -> SagaResult:
    if saga_id in done:
        return SagaResult(saga_id=saga_id, state=into.value)
    if saga_id not in states:
        return _conflict(saga_id, "unknown", "the saga is unknown and too old to be committed")
    state, of_file = states[saga_id]
    if of_file != file_id:
        return _conflict(saga_id, state.value, "the saga belongs to another file")
    if advance(state, event) is None:
        return _conflict(saga_id, state.value, f"the saga is {state.value}")
    return SagaResult(saga_id=saga_id, state=state.value)


def _conflict(saga_id: str, state: str, why: str) -> SagaResult:
    return _refused(saga_id, state, Conflict(why, state=state))


def _refused(saga_id: str, state: str, error: ArtStoreError) -> SagaResult:
    return SagaResult(saga_id=saga_id, state=state, problem=orjson.loads(error.to_wire(request_id.get())))


def _row(commit: Commit) -> dict[str, Any]:
    row = {"upload": commit.saga_id, **row_of(FileEntry(commit.attributes, "put"))}
    if commit.keyed:
        answer = uploaded(commit.attributes.file_id, row["attributes"].encode())
        row |= {"answer_status": answer.status, "answer_headers": answer.headers}
    return row
