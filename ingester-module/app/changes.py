"""Update and delete: find the element that holds the file, and pass the change on to it.

The element decides (its mode, the revision, the attributes) and carries its own protocol through; 409, 412 and 422 are its
answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from artstore.catalog.find import find_file
from artstore.contracts.elements import Element
from artstore.errors import ArtStoreError, NotFound, Quarantined, Unavailable
from artstore.logs import get_logger
from artstore.peers import PeerAnswer

from .core.context import Context
from .uploads.body import Body

log = get_logger("ingester.changes")


async def patch(context: Context, file_id: str, changes: bytes, headers: Mapping[str, str]) -> PeerAnswer:
    """Changes attributes. The answer's body is the new attr.json."""
    return await context.elements.patch(await find_holder(context, file_id), file_id, headers, changes)


async def replace(context: Context, file_id: str, body: Body, headers: Mapping[str, str]) -> PeerAnswer:
    """Replaces the bytes. The element is found before the first of them is read."""
    holder = await find_holder(context, file_id)
    await body.hold_head()
    return await context.elements.replace(holder, file_id, headers, body)


async def delete(context: Context, file_id: str, headers: Mapping[str, str]) -> None:
    await context.elements.delete(await find_holder(context, file_id), file_id, headers)


async def find_holder(context: Context, file_id: str) -> Element:
    """The element that holds the file: the catalog's, else the one that says so when all are asked.

    Raises NotFound, or Unavailable when the file may be on an element that does not answer.
    """
    element_id = await _ask_catalog(context, file_id)
    if element_id is None:
        return await _ask_elements(context, file_id)
    holder = context.discovery.find(element_id)
    if holder is None:
        raise Unavailable(f"{element_id}, which holds the file, is not in the registry", away=element_id)
    return holder


async def _ask_catalog(context: Context, file_id: str) -> str | None:
    """The element the catalog names; None also while the catalog is away. Raises NotFound for an upload that is open."""
    try:
        async with context.database.begin() as connection:
            row = await find_file(connection, file_id)
    except Unavailable as error:
        log.warning("catalog away, asking the elements", error=error.detail)
        return None
    if row is None:
        return None
    if not row.available:
        raise NotFound("no such file")
    return row.storage_element_id


async def _ask_elements(context: Context, file_id: str) -> Element:
    elements = context.discovery.elements
    if not elements:
        raise Unavailable("no storage element is known")
    answers = await asyncio.gather(*(_holds(context, element, file_id) for element in elements))
    silent: list[str] = []
    for element, holds in zip(elements, answers, strict=True):
        if holds:
            return element
        if holds is None:
            silent.append(element.id)
    if silent:
        raise Unavailable("the file may be on an element that does not answer", away=silent)
    raise NotFound("no such file")


async def _holds(context: Context, element: Element, file_id: str) -> bool | None:
    """None when the element does not say."""
    try:
        await context.elements.load(element, file_id)
    except NotFound:
        return False
    except Quarantined:
        raise
    except ArtStoreError:
        return None
    return True
