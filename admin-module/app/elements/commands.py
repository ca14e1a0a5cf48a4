"""Commands that admin sends to an element with its own token. The element decides; its refusal is passed on
unchanged."""

from __future__ import annotations

from typing import Any

import msgspec

from artstore.audit.event import Event
from artstore.auth.tokens import Principal
from artstore.clock import uuid7
from artstore.contracts.elements import ONLINE, Element, ElementReport, Mode
from artstore.contracts.sagas import SagaKind
from artstore.database import Database
from artstore.errors import ArtStoreError, BadGateway, Unavailable
from artstore.logs import get_logger
from artstore.modes import check_change
from artstore.peers.connections import PeerAnswer
from artstore.peers.session import Peers

from ..audit.chain import Auditor
from ..sagas.queue import ChangeRequest, find_last_queued, lock_queue, queue_change
from .registry import load_element, record_mode
from .reports import find_serving

log = get_logger("admin.commands")

SERVING_TIMEOUT_S = 2.0
"""Shorter than the time that an element waits for the answer to its report."""


class _Serving(msgspec.Struct, frozen=True):
    instance: str = ""


class ElementCommands:
    """One per process."""

    def __init__(self, database: Database, peers: Peers, auditor: Auditor, timeout_s: float) -> None:
        self._database, self._peers, self._auditor, self._timeout_s = database, peers, auditor, timeout_s

    async def change_mode(self, element_id: str, mode: Mode, by: Principal) -> Element | dict[str, Any]:
        """The element in its new mode; or, while it is away, the saga that will apply the change.

        Asking for the present mode changes nothing. Raises NotFound, the element's refusal, and Conflict for
        a change that modes do not allow.
        """
        # 1. a change behind a queued one is queued too, as is one for an element that is away
        async with self._database.begin() as conn:
            element = await load_element(conn, element_id)
            waiting = await find_last_queued(conn, element_id)
        if waiting is None and element.status == ONLINE:
            try:
                # 2. the element stores the mode on its disk before it answers
                await self._ask(element, "mode", {"mode": mode.value})
                # 3. the registry follows; after a crash before this point, the element's next report brings
                #    the mode
                return await self._note_mode(element_id, mode, by.subject)
            except (Unavailable, BadGateway) as error:
                log.warning("element unavailable, mode change queued", element_id=element_id, error=error.detail)
            except ArtStoreError as error:
                await self._note_failure(element_id, "mode", {"mode": mode.value}, by.subject, error)
                raise
        return await self._queue_mode(element_id, mode, by)

    async def run(self, element_id: str, task: str, order: dict[str, Any], by: str) -> PeerAnswer:
        """Run the task `rebuild` or `verify`. Returns the element's answer, or raises its error."""
        async with self._database.begin() as conn:
            element = await load_element(conn, element_id)
        try:
            answer = await self._ask(element, task, order)
        except ArtStoreError as error:
            await self._note_failure(element_id, task, order, by, error)
            raise
        await self._auditor.note(Event(f"element:{task}", by, element_id))
        return answer

    async def find_serving(self, announced: ElementReport) -> str | None:
        """The instance that serves at the registered URL, when this report comes from a newer process at
        another URL.

        None when the report needs no such check, or when the registered process does not answer, so that the
        newer one may take over. Outside any transaction.
        """
        async with self._database.begin() as conn:
            url = await find_serving(conn, announced)
        if url is None:
            return None
        try:
            peer = self._peers.to(announced.id, url)
            answer = await peer.call("GET", "/api/element", timeout_s=SERVING_TIMEOUT_S)
            return msgspec.json.decode(answer.body, type=_Serving).instance
        except (ArtStoreError, msgspec.MsgspecError) as error:
            log.warning(
                "the registered process of the element does not answer", element_id=announced.id, error=str(error)
            )
            return None

    async def _ask(self, element: Element, what: str, body: dict[str, Any]) -> PeerAnswer:
        peer = self._peers.to(element.id, element.url)
        path = f"/api/element/{what}"
        return await peer.call("POST", path, body=msgspec.json.encode(body), timeout_s=self._timeout_s)

    async def _note_mode(self, element_id: str, mode: Mode, by: str) -> Element:
        async with self._database.begin() as conn:
            element = await record_mode(conn, element_id, mode)
            event = Event("element:mode", by, element_id, metadata={"mode": mode.value})
            await self._auditor.record(conn, event)
        return element

    async def _queue_mode(self, element_id: str, mode: Mode, by: Principal) -> Element | dict[str, Any]:
        """Checked against the mode that the element will have by then. Modes only go forward, so a refusal is
        final."""
        async with self._database.begin() as conn:
            await lock_queue(conn, element_id)
            element = await load_element(conn, element_id)
            waiting = await find_last_queued(conn, element_id)
            if not check_change(Mode(waiting["wanted"]["mode"]) if waiting else element.mode, mode):
                return waiting or element
            wanted = {"mode": mode.value, "account": by.subject}
            change = ChangeRequest(str(uuid7()), SagaKind.MODE, None, element_id, by.client_id, wanted)
            saga = await queue_change(conn, change)
            metadata = {"mode": mode.value, "saga_id": change.saga_id}
            event = Event("element:queue-mode", by.subject, element_id, metadata=metadata)
            await self._auditor.record(conn, event)
        return saga

    async def _note_failure(
        self, element_id: str, what: str, body: dict[str, Any], by: str, error: ArtStoreError
    ) -> None:
        metadata = {**body, "code": error.code}
        await self._auditor.note(Event(f"element:{what}", by, element_id, "failure", metadata))
