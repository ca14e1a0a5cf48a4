"""Where a change of a file has to go: the element that holds it, and whether other changes of it wait already.

The catalog is a cache and may be away: then, and when its element does not have the file, all elements are asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

import msgspec
from sqlalchemy import text

from artstore.catalog.tables import AVAILABLE
from artstore.contracts.elements import Element
from artstore.errors import ArtStoreError, NotFound, Quarantined, Unavailable
from artstore.logs import get_logger

from ..core.context import Context

log = get_logger("ingester.changes")

CATALOG_PATIENCE_S = 2.0
"""For a database that is frozen: there is another way to an answer."""

# One look for both, so that nothing can be queued between them unseen.
_LOOK = text(
    """SELECT files.revision, files.state, files.storage_element_id,
        (SELECT sagas.storage_element_id FROM sagas WHERE sagas.state = 'queued' AND sagas.file_id = asked.file_id
         ORDER BY begun_at LIMIT 1) AS waits_at
    FROM (SELECT CAST(:file_id AS uuid) AS file_id) AS asked LEFT JOIN files ON files.file_id = asked.file_id"""
)
_Revision = msgspec.defstruct("_Revision", [("revision", int)])


@dataclass(frozen=True, slots=True)
class Holder:
    element: Element
    revision: int | None
    """What the catalog, or the element when it was asked, says of the file. None: only the queue knows the file."""
    queued: bool = False
    """Changes of the file wait for the element: the next one waits behind them."""
    asked: bool = False
    """The elements themselves were asked, not the catalog."""


async def find_holder(context: Context, file_id: str) -> Holder:
    """The catalog's element, else the one that says so when all are asked.

    Raises NotFound, or Unavailable when the file may be on an element that does not answer.
    """
    known = await _ask_catalog(context, file_id)
    return known if known is not None else await ask_elements(context, file_id)


async def ask_elements(context: Context, file_id: str, *, but: Collection[str] = ()) -> Holder:
    """Raises as `find_holder`. `but` have answered already that they do not have it."""
    elements = context.discovery.elements
    if not elements:
        raise Unavailable("no storage element is known")
    elements = [element for element in elements if element.id not in but]
    answers = await asyncio.gather(*(_revision_at(context, element, file_id) for element in elements))
    silent: list[str] = []
    for element, revision in zip(elements, answers, strict=True):
        if revision:
            return Holder(element, revision, asked=True)
        if revision is None:
            silent.append(element.id)
    if silent:
        raise Unavailable("the file may be on an element that does not answer", away=silent)
    raise NotFound("no such file")


async def load_revision(context: Context, element: Element, file_id: str) -> int:
    """From the element itself. Raises NotFound, Unavailable."""
    record = await context.elements.load(element, file_id)
    return int(msgspec.json.decode(record, type=_Revision).revision)  # type: ignore[attr-defined]


async def load_record(context: Context, file_id: str) -> bytes:
    """attr.json from the element that holds the file. Raises as `find_holder`."""
    holder = await find_holder(context, file_id)
    try:
        return await context.elements.load(holder.element, file_id)
    except NotFound:
        if holder.asked:
            raise
    holder = await ask_elements(context, file_id, but=[holder.element.id])
    return await context.elements.load(holder.element, file_id)


async def _ask_catalog(context: Context, file_id: str) -> Holder | None:
    """None when the catalog does not know, also while it is away. Raises NotFound for an upload that is open."""
    try:
        async with context.database.alone(patience_s=CATALOG_PATIENCE_S) as connection:
            found = (await connection.execute(_LOOK, {"file_id": file_id})).one()
    except Unavailable as error:
        log.debug("catalog away, asking the elements", error=error.detail)  # the check `database` has said so
        return None
    element_id = found.waits_at or found.storage_element_id
    if element_id is None:
        return None
    if found.waits_at is None and found.state != AVAILABLE:
        raise NotFound("no such file")
    holder = context.discovery.find(element_id)
    if holder is None:
        raise Unavailable(f"{element_id}, which holds the file, is not in the registry", away=element_id)
    return Holder(holder, found.revision, queued=found.waits_at is not None)


async def _revision_at(context: Context, element: Element, file_id: str) -> int | None:
    """0 when the element does not have the file, None when it does not say."""
    try:
        return await load_revision(context, element, file_id)
    except NotFound:
        return 0
    except Quarantined:
        raise
    except (ArtStoreError, msgspec.MsgspecError):
        return None
