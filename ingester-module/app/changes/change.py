"""The order of a change: find the element, ask it, and queue the change at admin when the element is
unavailable.

The element decides (mode, revision, attributes) and runs its own protocol; its 409, 412 and 422 are the
answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from artstore.auth.tokens import Principal
from artstore.clock import uuid7
from artstore.contracts.elements import AWAY, Element
from artstore.contracts.files import EMPTY_CHANGE, Changes
from artstore.contracts.idempotency import GONE, Answer, accepted
from artstore.contracts.sagas import QueueChange, SagaKind
from artstore.contracts.storage import ACCOUNT_HEADER
from artstore.errors import BadGateway, InvalidFields, NotFound, Unavailable
from artstore.failpoints import failpoint
from artstore.http.idempotency_key import fingerprint_of
from artstore.logs import get_logger
from artstore.modes import Operation, require
from artstore.tracing import span

from ..core.context import Context
from ..idempotency.keys import HeldKey
from ..uploads.body import Body
from .conditional import Precondition
from .locate import Location, locate, locate_at_elements

log = get_logger("ingester.changes")

ACCEPTED = 202


class Change(ABC):
    """One change of one file, from the parsed request to its answer."""

    kind: ClassVar[SagaKind]
    operation: ClassVar[Operation]
    changes: Changes | None = None
    """New attributes, of a patch."""
    body: Body | None = None
    """New content, of a replacement."""
    key: HeldKey | None = None
    """Set while the change runs under an Idempotency-Key."""

    def __init__(self, context: Context, file_id: str, caller: Principal, condition: Precondition) -> None:
        self.context, self.file_id, self.condition = context, file_id, condition
        self.owner, self.account = caller.client_id, caller.subject
        self.saga_id = str(uuid7())
        """The saga that holds the change while it is queued. To queue it twice under one id queues it
        once."""

    @property
    def on_behalf(self) -> dict[str, str]:
        """The header that names the account for the audit log: the element records the change that it makes, so that
        the event exists also when this process dies."""
        return {ACCOUNT_HEADER: self.account}

    @abstractmethod
    def fingerprint(self) -> str:
        """Equal for equal requests. The bytes of a file are not covered: replay compares them."""

    def describes(self, _record: Mapping[str, Any]) -> bool:
        """The fingerprint covers everything but the bytes."""
        return True

    @abstractmethod
    async def ask(self, location: Location) -> Answer | None:
        """Has the element make the change. None: it must be queued instead."""

    @abstractmethod
    async def resume(self, key: HeldKey) -> Answer:
        """Continues after an attempt that ended without an answer and may have made the change."""

    def find_targets(self) -> list[str] | None:
        """The elements that may take the file, of a change that moves it."""
        return None

    async def run_under(self, key: HeldKey) -> Answer:
        self.key, self.saga_id = key, key.saga_id
        key.changes_file = True
        answer = await (self.resume(key) if key.taken_over else self.run())
        if answer.status != ACCEPTED:  # that one admin has stored in the transaction that queued the change
            await key.store_answer(answer)
        return answer

    async def run(self) -> Answer:
        # 1. The element, and whether changes of the file are queued for it: then this one is queued behind
        #    them.
        with span("change.locate"):
            location = await locate(self.context, self.file_id)
        while not location.queued and location.element.status != AWAY:
            try:
                # 2. The element's answer is the answer. A crash before it leaves the outcome unknown: the
                #    client repeats.
                with span("change.make"):
                    answer = await self.ask(location)
                if answer is None:
                    break
                failpoint("change.made")
                return answer
            except NotFound:
                if location.confirmed:
                    raise
            except (Unavailable, BadGateway) as error:
                if self.key is not None:
                    self.key.outcome_unknown = True
                log.warning("element unavailable, queueing", element_id=location.element.id, error=error.detail)
                break
            # The catalog is a cache: the file may be on a different element.
            location = await locate_at_elements(self.context, self.file_id, excluded=location.element)
        # 3. Admin stores the change durably, and finds out before it makes it whether the element has made it
        #    already.
        return await self.queue(location.element)

    async def queue(self, element: Element) -> Answer:
        """Raises Unavailable without admin, and ModeForbids at once, because a mode only becomes stricter."""
        require(element.mode, self.operation)
        if self.changes == Changes():
            raise InvalidFields(EMPTY_CHANGE, fields=["filename", "tags", "metadata", "ttl_days"])
        revisions = self.condition.revisions
        change = QueueChange(
            saga_id=self.saga_id,
            kind=self.kind,
            file_id=self.file_id,
            storage_element_id=element.id,
            owner=self.owner,
            account=self.account,
            changes=self.changes,
            targets=self.find_targets(),
            if_revisions=None if revisions is None else list(revisions),
            keyed=self.key is not None,
        )
        with span("change.queue", {"artstore.saga_id": self.saga_id}):
            return accepted(self.saga_id, await self.context.sagas.queue(change))


class Delete(Change):
    kind, operation = SagaKind.DELETE, Operation.DELETE

    def fingerprint(self) -> str:
        return fingerprint_of("DELETE", self.file_id, self.condition.revisions)

    async def ask(self, location: Location) -> Answer:
        headers = self.condition.header() | self.on_behalf
        await self.context.elements.delete(location.element, self.file_id, headers)
        return GONE

    async def resume(self, key: HeldKey) -> Answer:
        """A missing file was deleted by the earlier attempt, because ids are never reused."""
        try:
            return await self.run()
        except NotFound:
            return GONE
