"""Claiming what is due: one short durable transaction that also says when it is due again, should the claimer die.

A queued change is claimed only when none of the same file (of the same element, for a mode) was queued before it and is not
done: so changes keep their order and never two of one file run at once. Nothing is claimed for an element whose breaker is
open here: it stays due, and goes on the moment the breaker has healed. No lease expires before its element has reconciled
with this catalog (docs/decisions/0008), and a saga from before the catalog's generation stays `begun` when claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.contracts.sagas import SagaKind
from artstore.database import Database

from ..elements.generations import Current
from .saga import SagaEvent, SagaState, accepting

CLAIM_AT_ONCE = 64
CALLS_OF_A_CLAIM = 3
"""A claim lasts as long as so many calls to an element: then whoever holds it is taken for dead."""
RETRY_FIRST_S = 2.0
RETRY_MAX_S = 300.0
"""The wait doubles with each failed attempt up to this; an element that reports is served at once (`wake`)."""
STARTS_FOR_S = 10.0
"""An element reports before it listens: one that has just reported and does not answer is asked again after the first wait."""
MAX_ERROR_CHARS = 300

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
        {_OLD} AS old"""
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
_WAKE = text(
    """WITH waiting AS (
        SELECT saga_id FROM sagas WHERE due_at > now() AND state <> 'begun'
        AND (storage_element_id = :element_id OR :element_id = ANY(abandoned)) ORDER BY saga_id FOR UPDATE)
    UPDATE sagas SET due_at = now() FROM waiting WHERE sagas.saga_id = waiting.saga_id"""
)


class ClaimLost(Exception):
    """Somebody else has claimed the saga since: this process was taken for dead. Never leaves this folder."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """`attempts` is the claim's number: who closes a saga says it, and one whose claim has passed on closes nothing."""

    saga_id: str
    kind: SagaKind
    state: SagaState
    file_id: str | None
    """None: of the whole element."""
    storage_element_id: str
    abandoned: tuple[str, ...]
    """The elements that an upload left for another one, in the order they were tried."""
    owner: str
    wanted: dict[str, Any]
    attempts: int
    generation: int
    """Of the catalog that it was claimed in."""
    old: bool
    """It began before the catalog's generation: what became of it may be missing in the catalog."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What may be claimed now. `resting`: elements that a call would not reach. `reconciled`: see docs/decisions/0008."""

    current: Current
    reconciled: Sequence[str]
    resting: Sequence[str]


async def claim_due(
    conn: AsyncConnection, claims: Claims, call_timeout_s: float
) -> tuple[list[Claimed], dict[str, str]]:
    """What is due, and the URLs of the elements concerned that are not away."""
    values = {
        "claims": CLAIM_AT_ONCE,
        "expiring": accepting(SagaEvent.LEASE_EXPIRED, SagaState.COMPENSATING),
        "resting": list(claims.resting),
        "reconciled": list(claims.reconciled),
        "generation_started_at": claims.current.started_at,
        "first_saga_id": claims.current.first_saga_id,
        "claim_s": CALLS_OF_A_CLAIM * call_timeout_s,
    }
    claimed = [
        Claimed(
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
        )
        for row in await conn.execute(_CLAIM, values)
    ]
    concerned = {element_id for saga in claimed for element_id in (saga.storage_element_id, *saga.abandoned)}
    if not concerned:
        return claimed, {}
    rows = await conn.execute(_URLS, {"element_ids": sorted(concerned)})
    return claimed, {row.element_id: row.url for row in rows}


async def require_held(database: Database, saga: Claimed) -> None:
    """Raises ClaimLost. Asked between a look at the file and the change of the revision seen: as long as the claim was held
    then, whatever others do after it moves the file on, and the change meets another revision."""
    async with database.alone() as conn:
        found = await conn.execute(_HELD, {"saga_id": saga.saga_id, "attempts": saga.attempts})
        if found.first() is None:
            raise ClaimLost


async def note_failure(database: Database, saga: Claimed, why: str) -> None:
    """It is due again after its backoff, unless somebody else has claimed it since."""
    values = {
        "saga_id": saga.saga_id,
        "attempts": saga.attempts,
        "error": why[:MAX_ERROR_CHARS],
        "retry_first_s": RETRY_FIRST_S,
        "retry_max_s": RETRY_MAX_S,
        "starts_for_s": STARTS_FOR_S,
    }
    async with database.begin() as conn:
        await conn.execute(_FAILED, values)


async def wake(conn: AsyncConnection, element_id: str) -> None:
    """The element has reported: what waits for it is due now."""
    await conn.execute(_WAKE, {"element_id": element_id})
