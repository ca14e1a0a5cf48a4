"""Claims due sagas in one short durable transaction, which also sets when each is due again in case the
claimer dies.

- A queued change is claimed only when no earlier change of the same file (for a mode: of the same element) is
  still queued. Changes therefore keep their order, and two changes of one file never run at the same time.
- Sagas of an element whose circuit breaker is open here stay due and continue when the breaker has closed.
- A lease expires only after its element has reconciled with this catalog (docs/decisions/0008). A saga older
  than the catalog's generation stays `begun` when claimed.
- After an outage of all admins or of PostgreSQL, or a step of its clock, leases start anew, because none
  could be renewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.contracts.sagas import SagaKind
from artstore.database import Database
from artstore.logs import get_logger

from ..elements.generations import Current
from .saga import SagaEvent, SagaState, accepting

CLAIM_BATCH = 64
CALLS_OF_A_CLAIM = 3
"""A claim lasts as long as this many calls to an element; after that its holder is presumed dead."""
RETRY_FIRST_S = 2.0
RETRY_MAX_S = 300.0
"""The wait doubles with each failed attempt up to this. A report of the element makes its sagas due at once
(`make_due`)."""
STARTS_FOR_S = 10.0
"""An element reports before it listens. One that has reported this recently is asked again after the first
wait."""
MAX_ERROR_CHARS = 300

MARK_AFTER_LEASES = 0.1
"""In leases: a running admin records a timestamp after this long."""
OUTAGE_AFTER_LEASES = 0.25
"""In leases: an older timestamp shows an outage. Longer than MARK_AFTER_LEASES by the time of a slow
round."""
OUTAGE_AT_LEAST_S = 3.0
"""Three rounds of the worker: with a lease of seconds an outage would else be seen in each round, and no lease would
end."""

log = get_logger("admin.sagas")

_OLD = """(begun_at < :generation_started_at
    OR sagas.saga_id < CAST(:first_saga_id AS uuid) AND substr(sagas.saga_id::text, 15, 1) = '7')"""
_CLAIM = text(
    f"""WITH due AS (
        SELECT saga_id FROM sagas AS own
        WHERE due_at <= now() AND storage_element_id <> ALL(CAST(:resting AS text[]))
        AND (state <> 'begun' OR storage_element_id = ANY(CAST(:reconciled AS text[])))
        AND (state <> 'queued' OR (NOT EXISTS (
                SELECT FROM sagas AS older WHERE older.state = 'queued' AND older.begun_at < own.begun_at
                AND older.file_id = own.file_id)
            AND (own.file_id IS NOT NULL OR NOT EXISTS (
                SELECT FROM sagas AS older WHERE older.state = 'queued' AND older.begun_at < own.begun_at
                AND older.file_id IS NULL AND older.storage_element_id = own.storage_element_id))))
        ORDER BY due_at LIMIT :claims FOR UPDATE OF own SKIP LOCKED)
    UPDATE sagas SET
        state = CASE WHEN state = ANY(CAST(:expiring AS text[])) AND NOT {_OLD} THEN 'compensating' ELSE state END,
        reason = CASE WHEN state = ANY(CAST(:expiring AS text[])) AND NOT {_OLD} THEN 'lease_expired' ELSE reason END,
        attempts = attempts + 1, updated_at = now(), due_at = now() + make_interval(secs => :claim_s)
    FROM due WHERE sagas.saga_id = due.saga_id
    RETURNING sagas.saga_id::text, kind, state, file_id::text, storage_element_id, abandoned, owner, wanted, attempts,
        last_error, {_OLD} AS old"""
)
_URLS = text(
    "SELECT element_id, url FROM storage_elements WHERE element_id = ANY(CAST(:element_ids AS text[])) AND status = 'online'"
)
_FAILED = text(
    """UPDATE sagas SET last_error = :error, due_at = now() + make_interval(secs => CASE
        WHEN EXISTS (SELECT FROM storage_elements WHERE element_id = storage_element_id
                     AND last_seen_at > now() - make_interval(secs => :starts_for_s)) THEN :retry_first_s
        ELSE least(:retry_max_s, :retry_first_s * 2 ^ least(attempts - 1, 20)) END)
    WHERE saga_id = CAST(:saga_id AS uuid) AND attempts = :attempts AND due_at IS NOT NULL"""
)
_HELD = text(
    """SELECT saga_id FROM sagas
    WHERE saga_id = CAST(:saga_id AS uuid) AND attempts = :attempts AND due_at IS NOT NULL"""
)
_MAKE_DUE = text(
    """WITH waiting AS (
        SELECT saga_id FROM sagas WHERE due_at > now() AND state <> 'begun'
        AND (storage_element_id = :element_id OR :element_id = ANY(abandoned)) ORDER BY saga_id FOR UPDATE)
    UPDATE sagas SET due_at = now() FROM waiting WHERE sagas.saga_id = waiting.saga_id"""
)

_MARKED = text("""SELECT extract(epoch FROM clock_timestamp() - attended_at)::float8 AS age_s FROM registry""")
_MARK = text(
    """WITH before AS (SELECT attended_at FROM registry FOR UPDATE)
    UPDATE registry SET attended_at = clock_timestamp() FROM before
    RETURNING extract(epoch FROM registry.attended_at - before.attended_at)::float8 AS age_s"""
)
_EXTEND = text(
    """WITH held AS (
        SELECT saga_id FROM sagas WHERE state = 'begun' AND due_at < now() + make_interval(secs => :lease_s)
        ORDER BY saga_id FOR UPDATE)
    UPDATE sagas SET due_at = now() + make_interval(secs => :lease_s) FROM held WHERE sagas.saga_id = held.saga_id"""
)


_ROUND_DUE = """SELECT extract(epoch FROM clock_timestamp() - attended_at)::float8 AS age_s,
    EXISTS (SELECT FROM sagas WHERE due_at <= now()) AS has_due FROM registry"""


class ClaimLost(Exception):
    """Another admin has claimed the saga since, because this process was presumed dead. Never leaves this
    folder."""


@dataclass(frozen=True, slots=True)
class ClaimedSaga:
    """`attempts` is the claim's number. Closing a saga requires it, so that a claim that was lost closes
    nothing."""

    saga_id: str
    kind: SagaKind
    state: SagaState
    file_id: str | None
    """None for a change of the whole element."""
    storage_element_id: str
    abandoned: tuple[str, ...]
    """The elements that an upload tried before the present one, in that order."""
    owner: str
    wanted: dict[str, Any]
    attempts: int
    generation: int
    """The catalog's generation at the time of the claim."""
    old: bool
    """The saga began before the catalog's generation, so the catalog may lack its outcome."""
    last_error: str
    """The error of the attempt before this one; empty for the first."""

    @property
    def account(self) -> str:
        """For the audit log. The owner's name, for a change that an earlier version has queued."""
        return str(self.wanted.get("account") or self.owner)


@dataclass(frozen=True, slots=True)
class ClaimScope:
    """Limits of what may be claimed now. `resting`: elements with an open breaker. `reconciled`: see
    docs/decisions/0008."""

    current: Current
    reconciled: Sequence[str]
    resting: Sequence[str]


async def is_round_due(database: Database, lease_s: float) -> bool:
    """True if a saga is due, or it is time to record that an admin is running: one statement instead of seven."""
    (row,) = await database.fetch(_ROUND_DUE)
    return row["has_due"] or not _was_attended(row["age_s"], lease_s * MARK_AFTER_LEASES)


def _was_attended(age_s: float | None, within_s: float) -> bool:
    return age_s is not None and 0 <= age_s < within_s


async def extend_after_outage(conn: AsyncConnection, lease_s: float) -> None:
    """Records that an admin is running, and extends all leases when none was running for a while.

    Called in the transaction that claims due sagas, so that nothing expires before. Locks the registry, then
    sagas."""
    age_s = (await conn.execute(_MARKED)).scalar_one()
    if _was_attended(age_s, lease_s * MARK_AFTER_LEASES):
        return
    age_s = (await conn.execute(_MARK)).scalar_one()
    if _was_attended(age_s, max(lease_s * OUTAGE_AFTER_LEASES, OUTAGE_AT_LEAST_S)):
        return
    extended = (await conn.execute(_EXTEND, {"lease_s": lease_s})).rowcount
    if extended:
        log.warning("leases of running uploads restarted after an outage", uploads=extended, outage_s=age_s)


async def claim_due(
    conn: AsyncConnection, claims: ClaimScope, call_timeout_s: float
) -> tuple[list[ClaimedSaga], dict[str, str]]:
    """The due sagas, and the URLs of their elements that are online."""
    values = {
        "claims": CLAIM_BATCH,
        "expiring": accepting(SagaEvent.LEASE_EXPIRED, SagaState.COMPENSATING),
        "resting": list(claims.resting),
        "reconciled": list(claims.reconciled),
        "generation_started_at": claims.current.started_at,
        "first_saga_id": claims.current.first_saga_id,
        "claim_s": CALLS_OF_A_CLAIM * call_timeout_s,
    }
    claimed = [
        ClaimedSaga(
            row.saga_id,
            SagaKind(row.kind),
            SagaState(row.state),
            row.file_id,
            row.storage_element_id,
            tuple(row.abandoned),
            row.owner,
            row.wanted or {},
            row.attempts,
            claims.current.generation,
            row.old,
            row.last_error,
        )
        for row in await conn.execute(_CLAIM, values)
    ]
    concerned = {element_id for saga in claimed for element_id in (saga.storage_element_id, *saga.abandoned)}
    if not concerned:
        return claimed, {}
    rows = await conn.execute(_URLS, {"element_ids": sorted(concerned)})
    return claimed, {row.element_id: row.url for row in rows}


async def require_held(database: Database, saga: ClaimedSaga) -> None:
    """Raises ClaimLost. Called between the read of a file and the conditional change: if the claim was held
    at that point, any later change by others raises the revision, and ours is refused."""
    async with database.autocommit() as conn:
        found = await conn.execute(_HELD, {"saga_id": saga.saga_id, "attempts": saga.attempts})
        if found.first() is None:
            raise ClaimLost


async def note_failure(database: Database, saga: ClaimedSaga, why: str) -> None:
    """The saga is due again after its backoff, unless another admin has claimed it since. Logged when the reason is not that
    of the attempt before: a long outage fails every waiting saga again and again."""
    why = why[:MAX_ERROR_CHARS]
    if why != saga.last_error:
        state, kind = saga.state.value, saga.kind.value
        log.warning(
            "saga not finished", saga_id=saga.saga_id, kind=kind, state=state, attempts=saga.attempts, error=why
        )
    values = {
        "saga_id": saga.saga_id,
        "attempts": saga.attempts,
        "error": why,
        "retry_first_s": RETRY_FIRST_S,
        "retry_max_s": RETRY_MAX_S,
        "starts_for_s": STARTS_FOR_S,
    }
    async with database.begin() as conn:
        await conn.execute(_FAILED, values)


async def make_due(conn: AsyncConnection, element_id: str) -> None:
    """Makes all sagas that wait for this element due now, because it has just reported."""
    await conn.execute(_MAKE_DUE, {"element_id": element_id})
