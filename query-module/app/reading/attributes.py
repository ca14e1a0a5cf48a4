"""Level 4: the elements' own attr.json. They are the truth; asked are the one that should have the file, or all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from artstore.contracts.elements import Element
from artstore.contracts.files import decode
from artstore.contracts.storage import SAGA_HEADER
from artstore.discovery import Discovery
from artstore.errors import ArtStoreError, BadGateway, NotFound, Quarantined
from artstore.peers.session import Peers

from .memory import Record

ASK_TIMEOUT_S = 5.0
"""For one element's answer about one file: a read of 4 KiB."""
MAX_ASKED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """What the elements said: the record of the highest revision, or none, and which of them gave no usable answer."""

    record: Record | None
    silent: tuple[str, ...] = ()
    aside: Quarantined | None = None
    """An element's word that it has found the file damaged."""


class AttributesLevel:
    def __init__(self, peers: Peers, discovery: Discovery) -> None:
        self._peers, self._discovery = peers, discovery

    async def ask(self, file_id: str, likely_element_id: str | None) -> Asked:
        """The likely element first and, when it has the file, alone; else every element, concurrently."""
        elements = self._discovery.elements
        likely = [element for element in elements if element.id == likely_element_id]
        first = await self._ask_all(file_id, likely)
        if first.record is not None:
            return first
        rest = await self._ask_all(file_id, [element for element in elements if element.id != likely_element_id])
        unknown = (likely_element_id,) if likely_element_id and not likely else ()
        nobody = () if elements else ("discovery",)
        return Asked(rest.record, (*first.silent, *rest.silent, *unknown, *nobody), first.aside or rest.aside)

    async def still_has(self, file_id: str, element_id: str) -> bool | None:
        """Whether this element has the file now; None when it does not say."""
        element = self._discovery.find(element_id)
        answer = await self._ask_one(file_id, element) if element else None
        if element is None or isinstance(answer, ArtStoreError):
            return None
        return answer is not None

    async def _ask_all(self, file_id: str, elements: Sequence[Element]) -> Asked:
        best: Record | None = None
        silent: list[str] = []
        aside: Quarantined | None = None
        for start in range(0, len(elements), MAX_ASKED_AT_ONCE):
            some = elements[start : start + MAX_ASKED_AT_ONCE]
            answers = await asyncio.gather(*(self._ask_one(file_id, element) for element in some))
            for element, answer in zip(some, answers, strict=True):
                if isinstance(answer, Quarantined):
                    aside = answer
                elif isinstance(answer, ArtStoreError):
                    silent.append(element.id)
                elif answer is not None and (best is None or answer.revision > best.revision):
                    best = answer
        return Asked(best, tuple(silent), aside)

    async def _ask_one(self, file_id: str, element: Element) -> Record | ArtStoreError | None:
        """None is the element's word that it has no such file; an error is no word at all."""
        peer = self._peers.to(element.id, element.url)
        try:
            answer = await peer.call("GET", f"/api/files/{file_id}", timeout_s=ASK_TIMEOUT_S)
            record = Record(decode(answer.body), answer.body, saga_open=SAGA_HEADER in answer.headers)
        except NotFound:
            return None
        except ArtStoreError as error:
            return error
        except ValueError:
            return BadGateway(f"{element.id} answered no attributes")
        if record.attributes.file_id != file_id:
            return BadGateway(f"{element.id} answered another file")
        return record
