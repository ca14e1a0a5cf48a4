"""Finds the element that holds a file, and whether other changes of the file are queued for it.

The catalog is a cache and may be unavailable or wrong: then all elements are asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec
from sqlalchemy import text

from artstore.catalog.tables import AVAILABLE
from artstore.contracts.elements import Element
from artstore.errors import ArtStoreError, BadGateway, NotFound, Quarantined, Unavailable
from artstore.logs import get_logger

from ..core.context import Context

log = get_logger("ingester.changes")

CATALOG_TIMEOUT_S = 2.0
"""A frozen database must not hold up a change, because the elements can answer instead."""

# One statement for both, so that no change can be queued unseen between two.
_FIND = text(
    """SELECT files.revision, files.state, files.storage_element_id,
        (SELECT sagas.storage_element_id FROM sagas WHERE sagas.state = 'queued' AND sagas.file_id = asked.file_id
         ORDER BY begun_at LIMIT 1) AS queued_at
    FROM (SELECT CAST(:file_id AS uuid) AS file_id) AS asked LEFT JOIN files ON files.file_id = asked.file_id"""
)


class _Revision(msgspec.Struct):
    revision: int


@dataclass(frozen=True, slots=True)
class Location:
    element: Element
    revision: int | None
    """According to the catalog or the element; None when only the queue knows the file."""
    queued: bool = False
    """Changes of the file wait for the element, so the next one must be queued behind them."""
    confirmed: bool = False
    """The element itself says that it has the file; otherwise the catalog does."""


async def locate(context: Context, file_id: str) -> Location:
    """Asks the catalog, then all elements. Raises NotFound, or Unavailable when a silent element may have the
    file."""
    listed = await _find_in_catalog(context, file_id)
    return listed if listed is not None else await locate_at_elements(context, file_id)


async def locate_at_elements(context: Context, file_id: str, *, excluded: Element | None = None) -> Location:
    """Raises as `locate`. `excluded` has answered that it does not have the file."""
    known = context.discovery.elements
    if not known:
        raise Unavailable("no storage element is known")
    elements = [element for element in known if excluded is None or element.id != excluded.id]
    answers = await asyncio.gather(*(_revision_at(context, element, file_id) for element in elements))
    silent: list[str] = []
    for element, revision in zip(elements, answers, strict=True):
        if revision:
            return Location(element, revision, confirmed=True)
        if revision is None:
            silent.append(element.id)
    if silent:
        raise Unavailable("the file may be on an element that does not answer", away=silent)
    raise NotFound("no file has this id")


async def load_revision(context: Context, element: Element, file_id: str) -> int:
    """The revision on the element's disk, also of a file in a later schema. Raises NotFound, Unavailable, BadGateway."""
    encoded = await context.elements.load_attributes(element, file_id)
    try:
        return msgspec.json.decode(encoded, type=_Revision).revision
    except msgspec.MsgspecError as error:
        raise BadGateway(f"the attributes from {element.id} cannot be read: {error}") from error


async def load_record(context: Context, file_id: str) -> bytes:
    """attr.json from the element that holds the file. Raises as `locate`."""
    location = await locate(context, file_id)
    try:
        return await context.elements.load_attributes(location.element, file_id)
    except NotFound:
        if location.confirmed:
            raise
    location = await locate_at_elements(context, file_id, excluded=location.element)
    return await context.elements.load_attributes(location.element, file_id)


async def _find_in_catalog(context: Context, file_id: str) -> Location | None:
    """None when the catalog is unavailable or has no row. Raises NotFound for an upload that is not
    committed."""
    try:
        async with context.database.autocommit(timeout_s=CATALOG_TIMEOUT_S) as connection:
            row = (await connection.execute(_FIND, {"file_id": file_id})).one()
    except Unavailable as error:
        log.debug("catalog unavailable, asking the elements", error=error.detail)  # the health check logs the outage
        return None
    element_id = row.queued_at or row.storage_element_id
    if element_id is None:
        return None
    if row.queued_at is None and row.state != AVAILABLE:
        raise NotFound("no file has this id")
    element = context.discovery.find(element_id)
    if element is None:
        raise Unavailable(f"{element_id}, which holds the file, is not in the registry", away=element_id)
    return Location(element, row.revision, queued=row.queued_at is not None)


async def _revision_at(context: Context, element: Element, file_id: str) -> int | None:
    """0 when the element does not have the file, None when it gives no usable answer."""
    try:
        return await load_revision(context, element, file_id)
    except NotFound:
        return 0
    except Quarantined:
        raise
    except (ArtStoreError, msgspec.MsgspecError):
        return None
