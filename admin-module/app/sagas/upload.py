"""The hot path of sagas: begin, commit and abort of uploads. Concurrent requests share one transaction.

The row lock decides every race. When a commit meets the expiry of its lease, the first to lock the row wins; the
other then sees the new state and is refused. Rows are locked in the order of their ids, so that transactions never
deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from msgspec import structs
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.write import FileEntry, upsert_files
from artstore.clock import Clock, first_uuid7
from artstore.contracts.files import Attributes, encode
from artstore.contracts.idempotency import Answer, uploaded
from artstore.contracts.sagas import SagaResult, UploadSaga
from artstore.database import ASYNC_COMMIT, Database
from artstore.errors import Conflict
from artstore.failpoints import failpoint
from artstore.groups import Group
from artstore.logs import request_id

from .idempotency import hold_keys, keep_answers
from .saga import KEEP_FINISHED_S, SagaEvent, SagaState, accepting, advance

MAX_BATCH_REQUESTS = 16
"""Requests that share one transaction; each holds up to MAX_GROUP sagas."""

_GIVEN = """unnest(CAST(:saga_ids AS uuid[]), CAST(:file_ids AS uuid[]), CAST(:elements AS text[]),
    CAST(:owners AS text[])) AS given(saga_id, file_id, element, owner)"""

# The element that the ingester has abandoned may still hold or receive data, which is removed later.
_ABANDONED = """array_remove(
    CASE WHEN kept.storage_element_id = excluded.storage_element_id THEN kept.abandoned
         ELSE array_append(array_remove(kept.abandoned, kept.storage_element_id), kept.storage_element_id) END,
    excluded.storage_element_id)"""

_BEGIN = text(
    f"""INSERT INTO sagas AS kept (saga_id, kind, state, file_id, storage_element_id, owner, due_at)
    SELECT saga_id, 'upload', 'begun', file_id, element, owner, now() + make_interval(secs => :lease_s)
    FROM {_GIVEN}, {ASYNC_COMMIT} WHERE async_commit.level IS NOT NULL ORDER BY saga_id
    ON CONFLICT (saga_id) DO UPDATE SET due_at = excluded.due_at, updated_at = now(),
        abandoned = {_ABANDONED}, storage_element_id = excluded.storage_element_id
    WHERE kept.state = ANY(CAST(:accepting AS text[])) AND kept.file_id = excluded.file_id
    RETURNING saga_id::text"""
)
# A saga that began before :oldest may have been undone and purged since, so it is committed only while its row exists.
_COMMIT = text(
    f"""INSERT INTO sagas AS kept (saga_id, kind, state, file_id, storage_element_id, owner)
    SELECT saga_id, 'upload', 'committed', file_id, element, owner FROM {_GIVEN}
    WHERE given.saga_id >= CAST(:oldest AS uuid) OR EXISTS (SELECT FROM sagas WHERE sagas.saga_id = given.saga_id)
    ORDER BY saga_id
    ON CONFLICT (saga_id) DO UPDATE SET state = 'committed', updated_at = now(),
        abandoned = {_ABANDONED}, storage_element_id = excluded.storage_element_id,
        due_at = CASE WHEN {_ABANDONED} = '{{}}' THEN NULL ELSE now() END
    WHERE kept.state = ANY(CAST(:accepting AS text[])) AND kept.file_id = excluded.file_id
    RETURNING saga_id::text"""
)
_ABORT = text(
    f"""INSERT INTO sagas AS kept (saga_id, kind, state, file_id, storage_element_id, owner, due_at, reason)
    SELECT saga_id, 'upload', 'compensating', file_id, element, owner, now(), :reason FROM {_GIVEN} ORDER BY saga_id
    ON CONFLICT (saga_id) DO UPDATE SET state = 'compensating', due_at = now(), updated_at = now(),
        abandoned = {_ABANDONED}, storage_element_id = excluded.storage_element_id, reason = excluded.reason
    WHERE kept.state = ANY(CAST(:accepting AS text[])) AND kept.file_id = excluded.file_id
    RETURNING saga_id::text"""
)
_STATES = text(
    """SELECT saga_id::text, state, file_id::text FROM sagas WHERE saga_id = ANY(CAST(:saga_ids AS uuid[]))"""
)


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
        """Durable on return: the files are in the catalog and the events in the outbox. Raises DatabaseUnavailable."""
        return await self._commits.add(commits)

    async def abort(self, abort: Abort) -> list[SagaResult]:
        """Durable on return, so that no commit can follow. The saga worker does the compensation."""
        sagas = {saga.saga_id: saga for saga in abort.sagas}
        async with self._database.begin() as conn:
            values = {**_columns(sagas.values()), "reason": abort.reason}
            done = await _advanced(conn, _ABORT, SagaEvent.ABORT, SagaState.COMPENSATING, values)
            states = await _states(conn, sagas.keys() - done)
        self._undo()
        return [
            _result(saga.saga_id, saga.file_id, SagaEvent.ABORT, SagaState.COMPENSATING, done, states)
            for saga in abort.sagas
        ]

    async def _begin(self, requests: list[list[UploadSaga]]) -> Sequence[list[SagaResult]]:
        sagas = {saga.saga_id: saga for request in requests for saga in request}
        async with self._database.autocommit() as conn:
            values = {**_columns(sagas.values()), "lease_s": self._lease_s}
            done = await _advanced(conn, _BEGIN, SagaEvent.BEGIN, SagaState.BEGUN, values)
            states = await _states(conn, sagas.keys() - done)
        return [
            [
                structs.replace(
                    _result(one.saga_id, one.file_id, SagaEvent.BEGIN, SagaState.BEGUN, done, states),
                    lease_s=self._lease_s,
                )
                for one in request
            ]
            for request in requests
        ]

    async def _commit(self, requests: list[list[Commit]]) -> Sequence[list[SagaResult]]:
        commits = {commit.saga_id: commit for request in requests for commit in request}
        async with self._database.begin() as conn:
            # 1. lock the idempotency keys; an upload whose key was taken over is not committed
            keyed = {commit.saga_id for commit in commits.values() if commit.keyed}
            lost = keyed - await hold_keys(conn, keyed)
            # 2. commit the sagas that may still be committed; their rows stay locked too
            given = [commit for commit in commits.values() if commit.saga_id not in lost]
            oldest = first_uuid7(self._clock.unix_s() - KEEP_FINISHED_S)
            values = {**_columns(_as_saga(commit) for commit in given), "oldest": str(oldest)}
            done = await _advanced(conn, _COMMIT, SagaEvent.COMMIT, SagaState.COMMITTED, values)
            # 3. make their files available, write the events to the outbox and the answers to the keys
            new = [commit for commit in given if commit.saga_id in done]
            await upsert_files(conn, [FileEntry(commit.attributes, "put") for commit in new])
            await keep_answers(conn, {commit.saga_id: _answer(commit) for commit in new if commit.keyed})
            states = await _states(conn, commits.keys() - done)
            lost = {saga_id for saga_id in lost if states.get(saga_id, ("",))[0] != SagaState.COMMITTED}
            failpoint("admin.commit_written")
            # 4. one durable commit: a crash before it leaves nothing, a crash after it leaves everything
        failpoint("admin.committed")
        return [
            [
                _refused(one.saga_id, "unknown", "the Idempotency-Key now belongs to another attempt")
                if one.saga_id in lost
                else _result(one.saga_id, one.attributes.file_id, SagaEvent.COMMIT, SagaState.COMMITTED, done, states)
                for one in request
            ]
            for request in requests
        ]


async def _advanced(
    conn: AsyncConnection, statement: Any, event: SagaEvent, into: SagaState, values: dict[str, Any]
) -> set[str]:
    """The ids of the sagas that the statement moved into `into`, or created there."""
    # Sagas already in `into` stay unchanged: a committed file may have been changed or deleted since.
    states = [state for state in accepting(event, into) if state == SagaState.BEGUN]
    rows = await conn.execute(statement, {**values, "accepting": states})
    return {row.saga_id for row in rows}


async def _states(conn: AsyncConnection, saga_ids: Iterable[str]) -> dict[str, tuple[SagaState, str]]:
    """(state, file_id) by saga id, for sagas that the statement did not change."""
    wanted = list(saga_ids)
    if not wanted:
        return {}
    rows = await conn.execute(_STATES, {"saga_ids": wanted})
    return {row.saga_id: (SagaState(row.state), row.file_id) for row in rows}


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
        return _refused(saga_id, "unknown", "the saga is unknown and too old to be committed")
    state, of_file = states[saga_id]
    if of_file != file_id:
        return _refused(saga_id, state.value, "the saga belongs to another file")
    if advance(state, event) is None:
        return _refused(saga_id, state.value, f"the saga is {state.value}")
    return SagaResult(saga_id=saga_id, state=state.value)


def _refused(saga_id: str, state: str, why: str) -> SagaResult:
    problem = orjson.loads(Conflict(why, state=state).to_wire(request_id.get()))
    return SagaResult(saga_id=saga_id, state=state, problem=problem)


def _as_saga(commit: Commit) -> UploadSaga:
    attributes = commit.attributes
    return UploadSaga(
        saga_id=commit.saga_id,
        file_id=attributes.file_id,
        storage_element_id=attributes.storage_element_id,
        owner=attributes.owner,
    )


def _answer(commit: Commit) -> Answer:
    return uploaded(commit.attributes.file_id, encode(commit.attributes))


def _columns(sagas: Iterable[UploadSaga]) -> dict[str, Any]:
    rows = sorted(sagas, key=lambda saga: saga.saga_id)
    return {
        "saga_ids": [row.saga_id for row in rows],
        "file_ids": [row.file_id for row in rows],
        "elements": [row.storage_element_id for row in rows],
        "owners": [row.owner for row in rows],
    }
