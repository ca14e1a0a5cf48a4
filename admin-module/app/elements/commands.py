"""What admin tells an element to do, with a token of its own. The element decides; its refusal is passed on as it is."""

from __future__ import annotations

from typing import Any

import msgspec

from artstore.audit.event import Event
from artstore.contracts.elements import Element, Mode
from artstore.database import Database
from artstore.errors import ArtStoreError
from artstore.peers import PeerAnswer, Peers

from ..audit.chain import Auditor
from .registry import load_element, note_mode


class Commands:
    """One per process."""

    def __init__(self, database: Database, peers: Peers, auditor: Auditor, timeout_s: float) -> None:
        self._database, self._peers, self._auditor, self._timeout_s = database, peers, auditor, timeout_s

    async def change_mode(self, element_id: str, mode: Mode, by: str) -> Element:
        """Raises NotFound, the element's ModeForbids, Unavailable. Asking for the mode it has changes nothing."""
        # 1. the element keeps the mode on its disk before it answers
        await self._tell(element_id, "mode", {"mode": mode.value}, by)
        # 2. the registry follows; a crash before this is made good by the element's next report
        async with self._database.begin() as conn:
            element = await note_mode(conn, element_id, mode)
            metadata = {"mode": mode.value}
            event = Event("element.mode", by, f"storage-elements/{element_id}", metadata=metadata)
            await self._auditor.record(conn, event)
        return element

    async def run(self, element_id: str, task: str, order: dict[str, Any], by: str) -> PeerAnswer:
        """`rebuild` or `verify`: the element's own answer. Raises what the element raises."""
        answer = await self._tell(element_id, task, order, by)
        await self._auditor.note(Event(f"element.{task}", by, f"storage-elements/{element_id}"))
        return answer

    async def _tell(self, element_id: str, what: str, body: dict[str, Any], by: str) -> PeerAnswer:
        async with self._database.begin() as conn:
            element = await load_element(conn, element_id)
        peer = self._peers.to(element_id, element.url)
        try:
            return await peer.call(
                "POST", f"/api/element/{what}", body=msgspec.json.encode(body), timeout_s=self._timeout_s
            )
        except ArtStoreError as error:
            metadata = {**body, "code": error.code}
            event = Event(f"element.{what}", by, f"storage-elements/{element_id}", "failed", metadata)
            await self._auditor.note(event)
            raise
