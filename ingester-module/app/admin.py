"""Calls to admin about sagas of uploads and changes. Concurrent uploads share requests; every call is idempotent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec
import orjson
from prometheus_client import CollectorRegistry, Counter

from artstore.contracts.sagas import (
    MAX_GROUP,
    AbortUploads,
    BeginUploads,
    CommitBatch,
    CommitUploads,
    QueueChange,
    SagaResult,
    SagaResults,
    UploadCommit,
    UploadSaga,
)
from artstore.errors import ADMIN, ArtStoreError, BadGateway, Conflict, Overloaded, Unavailable, from_wire
from artstore.groups import Group
from artstore.logs import get_logger
from artstore.peers.client import Peer
from artstore.tasks import Tasks
from artstore.tracing import span

log = get_logger("ingester.admin")

COMMIT_PAUSES_S = (0.2, 1.0, 3.0)
"""Between attempts of a commit: the bytes are on disk, and only a repeat shows whether a commit without an answer was made."""
COMMIT_WITHIN_S = 12.0
"""For all attempts together. An admin that hangs is detected in half of it."""
ABORT_PAUSES_S = (0.5, 2.0)
"""Admin undoes a saga without an abort when its lease ends."""
QUEUE_PAUSE_S = 0.3

COMMITTED = "committed"
"""The state of a saga whose file exists."""
LEASE_S = 300.0
"""Used when admin states no lease."""

_Result = SagaResult | ArtStoreError


class GivenUp(Unavailable):
    """This upload cannot be committed any more."""


def given_up(saga_id: str, refusal: Conflict) -> GivenUp:
    """The lease ended or the key belongs to a later attempt. Nothing of the file stays, and the client is not at fault."""
    log.warning("upload given up", saga_id=saga_id, reason=refusal.detail)
    return GivenUp("the upload took too long and was given up: send it again")


class Attempts:
    """Repeats commits and aborts that admin does not answer. One line in the log for each saga, and a count of all failures:
    an outage of admin fails as many calls as clients cause."""

    def __init__(self, registry: CollectorRegistry) -> None:
        failed = Counter("saga_call_failures_total", "Commits and aborts that failed", ["call"], registry=registry)
        self._commits, self._aborts = failed.labels("commit"), failed.labels("abort")

    async def commit(self, saga_id: str, attempt: Callable[[], Awaitable[object]]) -> None:
        """Raises GivenUp, Unavailable."""
        try:
            async with asyncio.timeout(COMMIT_WITHIN_S):
                for number, pause_s in enumerate((*COMMIT_PAUSES_S, None)):
                    try:
                        await attempt()
                        return
                    except (Unavailable, Overloaded) as error:
                        self._commits.inc()
                        if number == 0:
                            log.warning("commit not answered", saga_id=saga_id, error=error.detail)
                        if pause_s is None:
                            raise
                    await asyncio.sleep(pause_s)
        except Conflict as refusal:
            raise given_up(saga_id, refusal) from refusal
        except TimeoutError as error:
            raise Unavailable("admin does not answer the commit", away=ADMIN) from error

    async def abort(self, saga: UploadSaga, attempt: Callable[[], Awaitable[object]]) -> None:
        for pause_s in (*ABORT_PAUSES_S, None):
            try:
                await attempt()
                return
            except ArtStoreError as error:
                self._aborts.inc()
                if pause_s is None:
                    log.warning("saga not aborted: its lease ends it", saga_id=saga.saga_id, error=error.detail)
                    return
            await asyncio.sleep(pause_s)


class Sagas:
    """Begins, commits and aborts upload sagas, and queues changes."""

    def __init__(self, admin: Peer, tasks: Tasks, attempts: Attempts, *, timeout_s: float) -> None:
        self._admin, self._tasks, self._timeout_s = admin, tasks, timeout_s
        self._attempts = attempts
        self._begins: Group[UploadSaga, SagaResult] = Group(self._begin, max_items=MAX_GROUP)
        self._commits: Group[UploadCommit, SagaResult] = Group(self._commit, max_items=MAX_GROUP)
        self._aborts: Group[tuple[str, UploadSaga], SagaResult] = Group(self._abort_group, max_items=MAX_GROUP)

    @property
    def admin_answers(self) -> bool:
        """False while admin's circuit breaker is not closed: the next call may fail."""
        return self._admin.breaker.closed

    async def begin(self, saga: UploadSaga) -> float:
        """Begins the saga or renews its lease. Returns the lease in seconds. Raises Unavailable, GivenUp."""
        return (await self._begun(saga)).lease_s or LEASE_S

    async def begin_unless_committed(self, saga: UploadSaga) -> bool:
        """As `begin`. True if an earlier attempt has committed the saga."""
        return (await self._begun(saga)).state == COMMITTED

    async def _begun(self, saga: UploadSaga) -> SagaResult:
        try:
            with span("saga.begin"):
                return await self._begins.add(saga)
        except Conflict as refusal:
            raise given_up(saga.saga_id, refusal) from refusal

    async def begin_all(self, sagas: Sequence[UploadSaga]) -> float:
        """Begins the sagas of a batch or renews their leases. Returns the lease. Raises Unavailable.

        A saga that is refused was undone: the commit of its batch will be refused too.
        """
        lease_s = LEASE_S
        for some in _groups_of(sagas):
            for result in await self._begin(some):
                if isinstance(result, SagaResult):
                    lease_s = result.lease_s or LEASE_S
        return lease_s

    async def commit(self, commit: UploadCommit) -> None:
        """Durable on return. Raises Unavailable after a few attempts, GivenUp when the saga was undone."""
        await self._attempts.commit(commit.saga_id, lambda: self._commits.add(commit))

    async def commit_batch(self, batch: CommitBatch) -> None:
        """All of its files, or none. Durable on return. Raises as `commit`."""
        body = msgspec.json.encode(batch)

        async def ask() -> object:
            return await self._admin.call("POST", "/api/sagas/commit-batch", body=body, timeout_s=self._timeout_s)

        await self._attempts.commit(batch.sagas[0].saga_id, ask)

    def abandon(self, saga: UploadSaga, reason: str) -> None:
        """Has admin undo the saga, in the background. A crash before that leaves it to the lease."""
        self._tasks.complete(f"abort:{saga.saga_id}", self._abort(saga, reason))

    def abandon_all(self, sagas: Sequence[UploadSaga], reason: str) -> None:
        """As `abandon`, for the sagas of a batch."""
        for some in _groups_of(sagas):
            self._tasks.complete(f"abort:{some[0].saga_id}", self._abort_all(some, reason))

    async def queue(self, change: QueueChange) -> bytes:
        """Returns the saga as JSON, once it is durable. Raises admin's refusal, or Unavailable after a second attempt."""
        body = msgspec.json.encode(change)
        try:
            return await self._queue(body)
        except Unavailable as error:
            log.warning("change not queued", saga_id=change.saga_id, error=error.detail)
        await asyncio.sleep(QUEUE_PAUSE_S)
        return await self._queue(body)

    async def _queue(self, body: bytes) -> bytes:
        return (await self._admin.call("POST", "/api/sagas/changes", body=body, timeout_s=self._timeout_s)).body

    async def _abort(self, saga: UploadSaga, reason: str) -> None:
        with span("saga.abort"):
            await self._attempts.abort(saga, lambda: self._aborts.add((reason, saga)))

    async def _abort_all(self, sagas: list[UploadSaga], reason: str) -> None:
        await self._attempts.abort(sagas[0], lambda: self._abort_group([(reason, saga) for saga in sagas]))

    async def _begin(self, sagas: list[UploadSaga]) -> Sequence[_Result]:
        return await self._ask("/api/sagas/uploads", msgspec.json.encode(BeginUploads(sagas=sagas)), len(sagas))

    async def _commit(self, commits: list[UploadCommit]) -> Sequence[_Result]:
        return await self._ask("/api/sagas/commit", msgspec.json.encode(CommitUploads(sagas=commits)), len(commits))

    async def _abort_group(self, aborts: list[tuple[str, UploadSaga]]) -> Sequence[_Result]:
        """One request per reason. Hundreds of clients may disconnect at once."""
        results: dict[str, _Result] = {}
        for reason in dict.fromkeys(reason for reason, _ in aborts):
            sagas = [saga for why, saga in aborts if why == reason]
            body = msgspec.json.encode(AbortUploads(sagas=sagas, reason=reason))
            answered = await self._ask("/api/sagas/abort", body, len(sagas))
            results |= {saga.saga_id: result for saga, result in zip(sagas, answered, strict=True)}
        return [results[saga.saga_id] for _, saga in aborts]

    async def _ask(self, path: str, body: bytes, count: int) -> list[_Result]:
        answer = await self._admin.call("POST", path, body=body, timeout_s=self._timeout_s)
        try:
            results = msgspec.json.decode(answer.body, type=SagaResults).results
        except msgspec.MsgspecError as error:
            raise BadGateway(f"admin's answer about sagas cannot be read: {error}") from error
        if len(results) != count:
            raise BadGateway(f"admin was asked about {count} sagas and answered about {len(results)}")
        return [result if result.problem is None else _refusal(result.problem) for result in results]


def _groups_of(sagas: Sequence[UploadSaga]) -> Iterator[list[UploadSaga]]:
    for at in range(0, len(sagas), MAX_GROUP):
        yield list(sagas[at : at + MAX_GROUP])


def _refusal(problem: dict[str, Any]) -> ArtStoreError:
    return from_wire(int(problem.get("status", 500)), orjson.dumps(problem))
