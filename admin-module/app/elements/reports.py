"""Reports of elements: stores what they report in the registry, unless they report from the wrong root.

A refused report changes only `refused_roots`, and the element's status if callers are sent to the refused
process. The decision is made under the registry's lock, so that of two processes exactly one is accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.contracts.elements import AWAY, ONLINE, Element, ElementReport, Mode
from artstore.errors import ArtStoreError, Conflict, Fenced, InvalidFields, NotFound, UnknownRoot
from artstore.peers.addresses import find_fault

from .admission import Admission, Decision, KnownRoot, decide_admission, mode_to_keep
from .registry import COLUMNS, REFUSED, check_element, grow, load_element, lock_registry, to_element

REPORTS_NOW_S = 60.0
"""A refused element reports every few seconds, so an older refusal belongs to a process that has ended."""

_BEFORE = text(
    """SELECT mode, url, public_url, status, away_reason, root_id, incarnation, instance FROM storage_elements
    WHERE element_id = :element_id FOR UPDATE"""
)
_SERVING = text("SELECT url, incarnation, root_id FROM storage_elements WHERE element_id = :element_id")
_REPORT = text(
    f"""INSERT INTO storage_elements ({COLUMNS}, instance, priority_pinned)
    VALUES (:element_id, :url, :mode, :backend, :version, CAST(:capacity AS jsonb), :priority, :status, now(), now(),
            :read_only_reason, :root_id, :incarnation, :away_reason, 0, :public_url, :instance, false)
    ON CONFLICT (element_id) DO UPDATE SET
        url = excluded.url, mode = excluded.mode, backend = excluded.backend, version = excluded.version,
        capacity = CASE WHEN excluded.status = 'away' THEN storage_elements.capacity ELSE excluded.capacity END,
        status = excluded.status, last_seen_at = now(),
        read_only_reason = excluded.read_only_reason, away_reason = excluded.away_reason,
        root_id = coalesce(excluded.root_id, storage_elements.root_id), incarnation = excluded.incarnation,
        instance = excluded.instance, public_url = excluded.public_url,
        priority = CASE WHEN storage_elements.priority_pinned THEN storage_elements.priority ELSE excluded.priority END
    RETURNING {COLUMNS}, {REFUSED}"""
)
_AWAY = text(
    """UPDATE storage_elements SET status = 'away', away_reason = :reason
    WHERE element_id = :element_id AND (status <> 'away' OR away_reason IS DISTINCT FROM :reason)"""
)
_REFUSE = text(
    """WITH before AS (SELECT code, root_id, instance FROM refused_roots WHERE element_id = :element_id)
    INSERT INTO refused_roots (element_id, code, reason, root_id, incarnation, instance, url, files, at)
    VALUES (:element_id, :code, :reason, :root_id, :incarnation, :instance, :url, :files, now())
    ON CONFLICT (element_id) DO UPDATE SET code = excluded.code, reason = excluded.reason, root_id = excluded.root_id,
        incarnation = excluded.incarnation, instance = excluded.instance, url = excluded.url, files = excluded.files,
        at = excluded.at
    RETURNING NOT EXISTS (SELECT FROM before WHERE code = :code AND root_id = :root_id AND instance = :instance) AS new"""
)
_FORGET_REFUSED = text(
    """DELETE FROM refused_roots
    WHERE element_id = :element_id AND (instance = :instance OR url = :url)"""
)
_REFUSED_NOW = text(
    """SELECT root_id, incarnation, files, url FROM refused_roots
    WHERE element_id = :element_id AND at > now() - make_interval(secs => :now_s) FOR UPDATE"""
)
_ACCEPT = text(
    f"""UPDATE storage_elements SET root_id = :root_id, incarnation = :incarnation, instance = '', status = 'away',
        away_reason = 'its root was accepted, it reports again in a moment'
    WHERE element_id = :element_id RETURNING {COLUMNS}, NULL AS refused"""
)
_FORGET_ACCEPTED = text("DELETE FROM refused_roots WHERE element_id = :element_id")
_COUNT_REFUSED = text("""SELECT element_id, code FROM refused_roots WHERE at > now() - make_interval(secs => :now_s)""")


class Reported(msgspec.Struct, frozen=True):
    """The result of a report. `mode_before`, `url_before` and `public_url_before` are None for an element that was not
    known."""

    element: Element | None
    """None: the element may create a root, and then reports again."""
    mode_before: Mode | None = None
    url_before: str | None = None
    public_url_before: str | None = None
    was_away: bool = False
    refusal: ArtStoreError | None = None
    """The answer to a refused report. The transaction must be committed nevertheless."""
    refused_anew: bool = False
    """The first refusal of this process."""

    @property
    def audited(self) -> bool:
        """True if the audit log records the report: the mode or a URL that callers are sent to has changed."""
        if self.element is None:
            return False
        before = (self.mode_before, self.url_before, self.public_url_before)
        return before != (self.element.mode, self.element.url, self.element.public_url)


async def find_serving(conn: AsyncConnection, announced: ElementReport) -> str | None:
    """The URL at which another process may be serving this root; None when the report needs no such check."""
    row = (await conn.execute(_SERVING, {"element_id": announced.id})).first()
    if row is None or row.root_id != announced.root_id or announced.incarnation <= row.incarnation:
        return None
    return None if row.url == announced.url.rstrip("/") else str(row.url)


async def report(conn: AsyncConnection, announced: ElementReport, serving_instance: str | None = None) -> Reported:
    """Store or refuse the element's report. Raises InvalidFields."""
    check_element(announced.id, announced.url)
    if announced.public_url is not None and (fault := find_fault(announced.public_url)) is not None:
        raise InvalidFields(fault, fields=["public_url"])
    await lock_registry(conn)
    before = (await conn.execute(_BEFORE, {"element_id": announced.id})).first()
    known = None if before is None else KnownRoot(before.root_id, before.incarnation, before.instance)
    decision = decide_admission(known, announced, serving_instance)
    if decision.admission is Admission.MAKE_ROOT:
        return Reported(None)
    if decision.admission is not Admission.ACCEPTED:
        return await _refuse(conn, announced, decision, None if before is None else before.url)
    mode_before = None if before is None else Mode(before.mode)
    await grow(conn)
    await conn.execute(
        _FORGET_REFUSED, {"element_id": announced.id, "instance": announced.instance, "url": announced.url.rstrip("/")}
    )
    values = _values(announced, mode_to_keep(mode_before, announced))
    element = to_element((await conn.execute(_REPORT, values)).mappings().one())
    if before is None:
        return Reported(element)
    was_away = before.status != ONLINE and element.status == ONLINE
    return Reported(element, mode_before, before.url, before.public_url, was_away)


async def accept_root(conn: AsyncConnection, element_id: str) -> tuple[Element, dict[str, Any]]:
    """Accept the refused root that is reporting. Returns the element, and the change for the audit log.

    Raises NotFound, and Conflict when no refused root is reporting.
    """
    await lock_registry(conn)
    before = await load_element(conn, element_id)
    values = {"element_id": element_id, "now_s": REPORTS_NOW_S}
    refused = (await conn.execute(_REFUSED_NOW, values)).first()
    if refused is None:
        raise Conflict("no refused root of this element is reporting")
    await grow(conn)
    accepted = {"element_id": element_id, "root_id": refused.root_id, "incarnation": refused.incarnation}
    row = (await conn.execute(_ACCEPT, accepted)).mappings().first()
    if row is None:
        raise NotFound("no element has this id")
    await conn.execute(_FORGET_ACCEPTED, {"element_id": element_id})
    changed = {
        "root_id": refused.root_id,
        "files": refused.files,
        "url": refused.url,
        "before": {"root_id": before.root_id, "incarnation": before.incarnation, "files": before.capacity.files},
    }
    return to_element(row), changed


async def refused_now(conn: AsyncConnection) -> Mapping[str, str]:
    """The error code of each element that is being refused."""
    rows = await conn.execute(_COUNT_REFUSED, {"now_s": REPORTS_NOW_S})
    return {row.element_id: row.code for row in rows}


async def _refuse(conn: AsyncConnection, announced: ElementReport, decision: Decision, url: str | None) -> Reported:
    """Stores the refusal. If callers would be sent to the refused process, the element becomes away."""
    refusal: ArtStoreError = Fenced(decision.reason)
    if decision.admission is Admission.ROOT_REFUSED:
        refusal = UnknownRoot(decision.reason)
    values = {
        "element_id": announced.id,
        "code": refusal.code,
        "reason": decision.reason,
        "root_id": announced.root_id or "",
        "incarnation": announced.incarnation,
        "instance": announced.instance,
        "url": announced.url.rstrip("/"),
        "files": announced.capacity.files,
    }
    anew = bool((await conn.execute(_REFUSE, values)).scalar_one())
    if url == announced.url.rstrip("/"):
        reason = {"element_id": announced.id, "reason": f"{refusal.code}: {decision.reason}"}
        if (await conn.execute(_AWAY, reason)).rowcount:
            await grow(conn)
    return Reported(None, refusal=refusal, refused_anew=anew)


def _values(announced: ElementReport, mode: Mode) -> dict[str, Any]:
    return {
        "element_id": announced.id,
        "url": announced.url.rstrip("/"),
        "mode": mode.value,
        "backend": announced.backend,
        "version": announced.version,
        "capacity": msgspec.json.encode(announced.capacity).decode(),
        "priority": announced.priority,
        "status": ONLINE if announced.away_reason is None else AWAY,
        "read_only_reason": announced.read_only_reason,
        "root_id": announced.root_id,
        "incarnation": announced.incarnation,
        "away_reason": announced.away_reason,
        "instance": announced.instance,
        "public_url": announced.public_url,
    }
