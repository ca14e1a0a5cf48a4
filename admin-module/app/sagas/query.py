"""Lists sagas for operators: which are stuck, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.find import SAGA_COLUMNS, find_saga, saga_view
from artstore.contracts.sagas import SagaKind
from artstore.errors import NotFound

from .saga import SagaState

HANGING_AFTER_S = 30
"""A queued change counts as hanging after this long, tried or not; a saga whose last attempt failed counts at
once."""

_PAGE = text(
    f"""SELECT {SAGA_COLUMNS} FROM sagas
    WHERE (CAST(:before AS uuid) IS NULL OR saga_id < CAST(:before AS uuid))
      AND (CAST(:state AS text) IS NULL OR state = CAST(:state AS text))
      AND (CAST(:kind AS text) IS NULL OR kind = CAST(:kind AS text))
      AND (CAST(:element AS text) IS NULL OR storage_element_id = CAST(:element AS text)
           OR CAST(:element AS text) = ANY(abandoned))
      AND (NOT CAST(:hanging AS boolean) OR due_at IS NOT NULL AND state <> 'begun'
           AND (last_error <> '' OR state = 'queued' AND begun_at < now() - make_interval(secs => {HANGING_AFTER_S})))
    ORDER BY saga_id DESC LIMIT :limit"""
)


@dataclass(frozen=True, slots=True)
class SagaFilter:
    """None matches everything. `hanging`: only sagas that should be finished and are not."""

    state: SagaState | None = None
    kind: SagaKind | None = None
    element: str | None = None
    hanging: bool = False


async def load_saga(conn: AsyncConnection, saga_id: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    saga = await find_saga(conn, str(saga_id))
    if saga is None:
        raise NotFound("no saga has this id")
    return saga


async def list_sagas(conn: AsyncConnection, asked: SagaFilter, before: UUID | None, limit: int) -> list[dict[str, Any]]:
    """Newest first, starting after the saga `before`."""
    values = {
        "state": asked.state,
        "kind": asked.kind,
        "element": asked.element,
        "hanging": asked.hanging,
        "before": before,
        "limit": limit,
    }
    return [saga_view(row) for row in (await conn.execute(_PAGE, values)).mappings()]
