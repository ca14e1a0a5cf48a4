"""Changes that make a new revision: patch (attributes), replace (content), and a file that becomes permanent."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from datetime import datetime

import msgspec

from artstore.auth.tokens import Principal
from artstore.contracts.elements import Element
from artstore.contracts.files import Attributes, Changes, is_applied
from artstore.contracts.idempotency import Answer, changed
from artstore.contracts.sagas import SagaKind
from artstore.contracts.storage import read_attributes
from artstore.errors import PROBLEM_JSON, Conflict, RevisionMismatch, Unavailable
from artstore.failpoints import failpoint
from artstore.http.idempotency_key import fingerprint_of
from artstore.logs import request_id
from artstore.modes import Operation, require
from artstore.peers.connections import PeerAnswer

from ..core.context import Context
from ..idempotency.keys import HeldKey
from ..idempotency.replay import content_of
from ..placement import candidates
from ..uploads.body import Body
from .asked import AskedChanges
from .change import Change
from .conditional import Precondition
from .locate import Location, load_record, load_revision, locate

MAX_REVISIONS = 16
"""Attempts of one change while others change the same file."""


class Update(Change):
    kind, operation = SagaKind.UPDATE, Operation.UPDATE

    @abstractmethod
    async def send(self, element: Element, condition: Mapping[str, str]) -> PeerAnswer:
        """`condition` is the If-Match for the element."""

    @abstractmethod
    async def was_made(self, now: Attributes) -> bool:
        """The file is as this change leaves it."""

    async def send_at_one_revision(self, location: Location) -> PeerAnswer:
        """Sends the change for one revision, so that a request which arrives late cannot overwrite what came
        after it.

        Repeats for the new revision when others change the file and the client's condition allows that.
        Raises RevisionMismatch when it does not, Conflict after MAX_REVISIONS, and the element's errors.
        """
        revision = location.revision
        for _ in range(MAX_REVISIONS):
            current = None
            if revision is not None and self.condition.allows(revision):
                if self.key is not None:
                    await self.key.pin(revision)
                try:
                    return await self.send(location.element, {"if-match": f'"{revision}"'})
                except RevisionMismatch as mismatch:
                    current = mismatch.fields.get("revision")
            if not isinstance(current, int):
                current = await load_revision(self.context, location.element, self.file_id)
            if current == revision or not self.condition.allows(current):
                raise RevisionMismatch(f"the file is at revision {current}", revision=current)
            revision = current
        raise Conflict("other requests are changing the file: try again")

    async def resume(self, key: HeldKey) -> Answer:
        """Runs for the pinned revision only. If the file has left it, the earlier attempt may be the
        reason."""
        pinned = key.from_revision
        if pinned is None:
            return await self.run()  # no element was asked
        self.condition = dataclasses.replace(self.condition, revisions=(pinned,))
        try:
            return await self.run()
        except RevisionMismatch:
            record = await load_record(self.context, self.file_id)
        now = read_attributes(record, "its element")
        if now.revision == pinned + 1 and await self.was_made(now):
            return changed(record, f'"{now.revision}"')
        return _unknown_outcome(pinned, now.revision)


class Patch(Update):
    """Changes attributes; absent ones stay."""

    changes: Changes

    def __init__(
        self,
        context: Context,
        file_id: str,
        caller: Principal,
        condition: Precondition,
        asked: AskedChanges,
        now: datetime,
    ) -> None:
        """Raises InvalidFields."""
        super().__init__(context, file_id, caller, condition)
        self._asked, self.changes = asked, asked.to_changes(now)

    def fingerprint(self) -> str:
        return fingerprint_of("PATCH", self.file_id, self.condition.revisions, msgspec.to_builtins(self._asked))

    async def ask(self, location: Location) -> Answer:
        answer = await self.send_at_one_revision(location)
        return changed(answer.body, answer.headers["etag"])

    async def send(self, element: Element, condition: Mapping[str, str]) -> PeerAnswer:
        headers = {**condition, **self.on_behalf}
        return await self.context.elements.patch(element, self.file_id, headers, msgspec.json.encode(self.changes))

    async def was_made(self, now: Attributes) -> bool:
        return is_applied(now, self.changes)


class Replace(Update):
    """Replaces the content. The attributes stay, also the content type unless `content_type` names a new one.

    It is never queued, because only the client keeps the bytes.
    """

    body: Body

    def __init__(
        self,
        context: Context,
        file_id: str,
        caller: Principal,
        condition: Precondition,
        body: Body,
        content_type: str | None,
    ) -> None:
        super().__init__(context, file_id, caller, condition)
        self.body, self._content_type = body, content_type

    def fingerprint(self) -> str:
        condition = self.condition
        return fingerprint_of("PUT", self.file_id, condition.revisions, self._content_type, *condition.checksums)

    async def run(self) -> Answer:
        location = await locate(self.context, self.file_id)  # before the first byte of the body is read
        if location.queued:
            raise Unavailable("changes of this file wait for its element", away=location.element.id)
        require(location.element.mode, self.operation)  # a mode only becomes stricter
        answer = await self.ask(location)
        failpoint("change.made")
        return answer

    async def ask(self, location: Location) -> Answer:
        if self.condition.checksums:
            record = await self.context.elements.load_attributes(location.element, self.file_id)
            self.condition = self.condition.resolve(read_attributes(record, location.element.id))
        await self.body.buffer_head()
        if self.key is not None:  # the pinned revision shows a later attempt whether this one changed the file
            answer = await self.send_at_one_revision(location)
        else:  # without a condition the last writer wins
            answer = await self.send(location.element, self.condition.header())
        return changed(answer.body, answer.headers["etag"])

    async def send(self, element: Element, condition: Mapping[str, str]) -> PeerAnswer:
        if not self.body.replayable:
            raise Unavailable("the file was changed while its new content was sent: send the request again")
        headers = {**condition, **self.on_behalf}
        if self._content_type:
            headers["content-type"] = self._content_type
        return await self.context.elements.replace(element, self.file_id, headers, self.body)

    async def was_made(self, now: Attributes) -> bool:
        same_type = self._content_type in (None, now.content_type)
        return same_type and await content_of(self.body) == (now.checksum, now.size_bytes)


def _unknown_outcome(pinned: int, revision: int) -> Answer:
    """Stored like any answer: to make the change now could undo a later one."""
    problem = Conflict(
        "the first request under this key broke off and the file has been changed since, so it is unknown whether the "
        "change was made: read the file, and repeat the change under a new key if necessary",
        from_revision=pinned,
        revision=revision,
    )
    return Answer(status=problem.status, headers={"content-type": PROBLEM_JSON}, body=problem.to_wire(request_id.get()))


class MakePermanent(Change):
    """PATCH {"retention": "permanent"}: queued at admin, which moves the file to an `rw` element
    (docs/decisions/0013)."""

    kind, operation = SagaKind.MOVE, Operation.UPDATE
    size_bytes: int | None = None
    """The size of the file; None when its element is unavailable."""

    def fingerprint(self) -> str:
        return fingerprint_of("PATCH", self.file_id, self.condition.revisions, "permanent")

    async def ask(self, location: Location) -> Answer | None:
        """The record of a file that is permanent already; else the move is always queued."""
        element = location.element
        record = await self.context.elements.load_attributes(element, self.file_id)
        now = read_attributes(record, element.id)
        if not self.condition.allows(now.revision):
            raise RevisionMismatch(f"the file is at revision {now.revision}", revision=now.revision)
        if now.retention == "permanent" and now.moving_to is None:
            return changed(record, f'"{now.revision}"')
        self.size_bytes = now.size_bytes
        return None

    async def resume(self, key: HeldKey) -> Answer:
        return await self.run()

    def find_targets(self) -> list[str]:
        """Raises StorageFull, Unavailable."""
        elements, known = self.context.elements, self.context.discovery.elements
        broken = [element.id for element in known if elements.breaker_open(element)]
        fit = candidates(known, size_bytes=self.size_bytes, retention="permanent", broken=broken)
        return [element.id for element in fit]
