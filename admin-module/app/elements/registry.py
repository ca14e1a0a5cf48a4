"""The registry of storage elements: the tables `storage_elements` and `registry`. Reports of elements are in
`reports.py`.

Every change increments the registry's version in the same transaction; the row lock on the version serialises
changes. Times are the database's, so that admins with different clocks agree on which elements are away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.clock import rfc3339
from artstore.contracts.elements import Capacity, Element, Fill, Mode, RefusedRoot, Snapshot
from artstore.database import Database
from artstore.errors import Conflict, InvalidFields, NotFound
from artstore.modes import ROW
from artstore.peers.addresses import find_fault

ELEMENT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

COLUMNS = """element_id, url, mode, backend, version, capacity, priority, status, last_seen_at, registered_at,
    read_only_reason, root_id, incarnation, away_reason, generation, public_url"""
REFUSED = """(SELECT to_jsonb(refused) FROM refused_roots AS refused
    WHERE refused.element_id = storage_elements.element_id) AS refused"""
"""Column with the last refused report, for statements that return an element."""
_GROW = text("UPDATE registry SET version = version + 1 RETURNING version")
_LOCK = text("SELECT version FROM registry FOR UPDATE")
_SNAPSHOT = f"""SELECT registry.version AS registry_version, registry.generation AS registry_generation, now() AS moment,
    elements.* FROM registry LEFT JOIN (SELECT {COLUMNS}, {REFUSED} FROM storage_elements) AS elements ON true
    ORDER BY priority, element_id"""
"""One statement: the elements are those of the version."""
_ONE = text(f"SELECT {COLUMNS}, {REFUSED} FROM storage_elements WHERE element_id = :element_id")
_REGISTER = text(
    f"""INSERT INTO storage_elements ({COLUMNS}, priority_pinned)
    VALUES (:element_id, :url, :mode, 'unknown', '', CAST(:capacity AS jsonb), :priority, 'away', now(), now(), NULL,
            '', 0, 'it has not reported yet', (SELECT generation FROM registry), NULL, true)
    ON CONFLICT (element_id) DO NOTHING RETURNING {COLUMNS}, {REFUSED}"""
)
_CHANGE = text(
    f"""UPDATE storage_elements SET url = coalesce(:url, url), priority = coalesce(:priority, priority),
    priority_pinned = priority_pinned OR :priority IS NOT NULL WHERE element_id = :element_id RETURNING {COLUMNS}, {REFUSED}"""
)
_SET_MODE = text(
    f"""UPDATE storage_elements SET mode = CASE WHEN mode = ANY(CAST(:before AS text[])) THEN :mode ELSE mode END
    WHERE element_id = :element_id RETURNING {COLUMNS}, {REFUSED}"""
)
_DELETE = text(
    """WITH refused AS (DELETE FROM refused_roots WHERE element_id = :element_id)
    DELETE FROM storage_elements WHERE element_id = :element_id"""
)
_IN_USE = text(
    """SELECT EXISTS (SELECT FROM files WHERE storage_element_id = :element_id) AS files,
    EXISTS (SELECT FROM sagas WHERE due_at IS NOT NULL
            AND (storage_element_id = :element_id OR :element_id = ANY(abandoned))) AS sagas"""
)
_GONE_SILENT = text(
    """UPDATE storage_elements SET status = 'away', away_reason = :reason
    WHERE status = 'online' AND last_seen_at < now() - make_interval(secs => :after_s) RETURNING element_id"""
)
_STATUS = text("SELECT element_id, status FROM storage_elements")


async def register(conn: AsyncConnection, element_id: str, url: str, mode: Mode, priority: int) -> Element:
    """Register an element before its first report; it is away until then. Raises Conflict, InvalidFields."""
    check_element(element_id, url)
    await grow(conn)
    nothing = Capacity(total_bytes=0, used_bytes=0, available_bytes=0, files=0, fill=Fill.FULL)
    values = {
        "element_id": element_id,
        "url": url.rstrip("/"),
        "mode": mode.value,
        "capacity": msgspec.json.encode(nothing).decode(),
        "priority": priority,
    }
    row = (await conn.execute(_REGISTER, values)).mappings().first()
    if row is None:
        raise Conflict("an element with this id is already registered")
    return to_element(row)


async def change(conn: AsyncConnection, element_id: str, *, url: str | None, priority: int | None) -> Element:
    """None changes nothing. A priority set here overrides the element's own. Raises NotFound,
    InvalidFields."""
    if url is not None:
        check_element(element_id, url)
    await grow(conn)
    values = {"element_id": element_id, "url": url, "priority": priority}
    return _found((await conn.execute(_CHANGE, values)).mappings().first())


async def record_mode(conn: AsyncConnection, element_id: str, mode: Mode) -> Element:
    """Record that the element has taken `mode`, unless it has reported a later mode since. Raises
    NotFound."""
    await grow(conn)
    before = [earlier.value for earlier in ROW[: ROW.index(mode)]]
    values = {"element_id": element_id, "mode": mode.value, "before": before}
    return _found((await conn.execute(_SET_MODE, values)).mappings().first())


async def remove(conn: AsyncConnection, element_id: str) -> None:
    """Raises NotFound, and Conflict while the catalog or an open saga refers to the element."""
    await grow(conn)
    await load_element(conn, element_id)
    used = (await conn.execute(_IN_USE, {"element_id": element_id})).one()
    if used.files or used.sagas:
        raise Conflict("the element still holds files" if used.files else "the element still has open sagas")
    await conn.execute(_DELETE, {"element_id": element_id})


async def mark_away(conn: AsyncConnection, after_s: float) -> list[str]:
    """Mark elements as away that have not reported for `after_s` seconds. Returns those that were online
    until now."""
    await lock_registry(conn)
    values = {"after_s": after_s, "reason": f"no report for {after_s:g} s"}
    gone = [row.element_id for row in await conn.execute(_GONE_SILENT, values)]
    if gone:
        await grow(conn)
    return gone


async def find_status(conn: AsyncConnection) -> dict[str, str]:
    """`online` or `away` of each element, by its id."""
    return {row.element_id: row.status for row in await conn.execute(_STATUS)}


async def load_element(conn: AsyncConnection, element_id: str) -> Element:
    """Raises NotFound."""
    return _found((await conn.execute(_ONE, {"element_id": element_id})).mappings().first())


async def load_snapshot(database: Database) -> Snapshot:
    """Raises Unavailable."""
    rows = await database.fetch(_SNAPSHOT)
    return Snapshot(
        version=rows[0]["registry_version"],
        published_at=rfc3339(rows[0]["moment"]),
        elements=[to_element(row) for row in rows if row["element_id"] is not None],
        generation=rows[0]["registry_generation"],
    )


def check_element(element_id: str, url: str) -> None:
    """Raises InvalidFields. The URL must be a plain origin, because admin calls it."""
    if not ELEMENT_ID.fullmatch(element_id):
        raise InvalidFields("an element id is 1 to 63 characters of a-z, 0-9 and -", fields=["id"])
    fault = find_fault(url)
    if fault is not None:
        raise InvalidFields(fault, fields=["url"])


async def lock_registry(conn: AsyncConnection) -> None:
    """Lock order to avoid deadlocks: the registry, then elements, then sagas."""
    await conn.execute(_LOCK)


async def grow(conn: AsyncConnection) -> int:
    """Increment the registry's version. Locks the registry."""
    version: int = (await conn.execute(_GROW)).scalar_one()
    return version


def _found(row: Mapping[str, Any] | Any | None) -> Element:
    if row is None:
        raise NotFound("no element has this id")
    return to_element(row)


def to_element(row: Mapping[str, Any] | Any) -> Element:
    return Element(
        id=row["element_id"],
        url=row["url"],
        mode=Mode(row["mode"]),
        backend=row["backend"],
        version=row["version"],
        capacity=msgspec.convert(row["capacity"], Capacity),
        priority=row["priority"],
        status=row["status"],
        last_seen_at=rfc3339(row["last_seen_at"]),
        registered_at=rfc3339(row["registered_at"]),
        read_only_reason=row["read_only_reason"],
        away_reason=row["away_reason"],
        root_id=row["root_id"],
        incarnation=row["incarnation"],
        refused=None if row["refused"] is None else msgspec.convert(row["refused"], RefusedRoot),
        generation=row["generation"],
        public_url=row["public_url"],
    )
