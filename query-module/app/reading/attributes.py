"""Level 4: attr.json on the elements, which is authoritative. Asks the likely element first, then all others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from artstore.contracts.elements import Element
from artstore.contracts.files import decode
from artstore.contracts.storage import SAGA_HEADER
from artstore.discovery import Discovery
from artstore.errors import ArtStoreError, BadGateway, FileDamaged, NotFound, Quarantined
from artstore.peers.session import Peers

from .hot import SmallFiles
from .memory import Record

ELEMENT_TIMEOUT_S = 5.0
"""For one element to read 4 KiB."""
MAX_CONCURRENT_CALLS = 64


@dataclass(frozen=True, slots=True)
class ElementAnswers:
    """`record` has the highest revision found. `silent` elements gave no usable answer."""

    record: Record | None
    silent: tuple[str, ...] = ()
    quarantined: Quarantined | None = None
    """The error of an element that has quarantined the file as damaged."""


class AttributesLevel:
    def __init__(self, peers: Peers, discovery: Discovery, small: SmallFiles) -> None:
        self._peers, self._discovery, self._small = peers, discovery, small

    async def find(self, file_id: str, likely_element_id: str | None, *, with_content: bool = False) -> ElementAnswers:
        """Asks only the likely element when it has the file, else all elements concurrently.

        `with_content`: the likely element gives the bytes of a small file in the same answer.
        """
        elements = self._discovery.elements
        likely = [element for element in elements if element.id == likely_element_id]
        first = await self._ask_all(file_id, likely, with_content=with_content)
        if first.record is not None:
            return first
        rest = await self._ask_all(file_id, [element for element in elements if element.id != likely_element_id])
        unregistered = (likely_element_id,) if likely_element_id and not likely else ()
        no_registry = () if elements else ("discovery",)
        silent = (*first.silent, *rest.silent, *unregistered, *no_registry)
        return ElementAnswers(rest.record, silent, first.quarantined or rest.quarantined)

    async def still_has(self, file_id: str, element_id: str) -> bool | None:
        """True when this element has the file now; None without a usable answer."""
        element = self._discovery.find(element_id)
        answer = await self._ask(file_id, element) if element else None
        if element is None or isinstance(answer, ArtStoreError):
            return None
        return answer is not None

    async def _ask_all(
        self, file_id: str, elements: Sequence[Element], *, with_content: bool = False
    ) -> ElementAnswers:
        best: Record | None = None
        silent: list[str] = []
        quarantined: Quarantined | None = None
        for start in range(0, len(elements), MAX_CONCURRENT_CALLS):
            some = elements[start : start + MAX_CONCURRENT_CALLS]
            answers = await asyncio.gather(*(self._ask(file_id, element, with_content) for element in some))
            for element, answer in zip(some, answers, strict=True):
                if isinstance(answer, Quarantined):
                    quarantined = answer
                elif isinstance(answer, ArtStoreError):
                    silent.append(element.id)
                elif answer is not None and (best is None or answer.revision > best.revision):
                    best = answer
        return ElementAnswers(best, tuple(silent), quarantined)

    async def _ask(self, file_id: str, element: Element, with_content: bool = False) -> Record | ArtStoreError | None:
        """None: the element does not have the file. An error: it gave no usable answer."""
        try:
            record = await self._read_both(file_id, element) if with_content else None
            if record is None:
                peer = self._peers.to(element.id, element.url)
                answer = await peer.call("GET", f"/api/files/{file_id}", timeout_s=ELEMENT_TIMEOUT_S)
                record = Record(decode(answer.body), answer.body, saga_open=SAGA_HEADER in answer.headers)
        except NotFound:
            return None
        except ArtStoreError as error:
            return error
        except ValueError:
            return BadGateway(f"{element.id} answered something other than attr.json")
        if record.attributes.file_id != file_id:
            return BadGateway(f"{element.id} answered with a different file")
        return record

    async def _read_both(self, file_id: str, element: Element) -> Record | None:
        """The record; the bytes of a small file are kept in memory for the request that waits for them."""
        read = await self._small.read(file_id, element)
        if read is None:
            return None
        record = Record(decode(read.record), read.record, saga_open=read.unconfirmed)
        with suppress(FileDamaged):  # its attributes are sound
            self._small.verify(read, record.attributes)
        return record
