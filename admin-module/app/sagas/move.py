"""Moves a temporary file that becomes permanent to an `rw` element (docs/decisions/0013).

Every step may be repeated, and the file's attr.json and the catalog show which of them were made. So a crash at any
point leaves the saga queued, and the next attempt continues. From the first step on the file cannot be changed by
anyone else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import text

from artstore.catalog.tables import AVAILABLE
from artstore.catalog.write import FileEntry, upsert_files
from artstore.contracts.elements import ONLINE
from artstore.contracts.files import Attributes, Changes
from artstore.contracts.storage import ACCOUNT_HEADER, MOVED_HEADER, SAGA_HEADER, CopyOrder, read_attributes
from artstore.database import Database
from artstore.errors import (
    ArtStoreError,
    InvalidFields,
    ModeForbids,
    NotFound,
    RevisionMismatch,
    StorageFull,
    Unavailable,
)
from artstore.failpoints import failpoint
from artstore.peers.client import Peer
from artstore.peers.session import Peers

from ..elements.registry import load_element
from .claim import ClaimedSaga, ClaimLost, require_held

_ROW = text("SELECT storage_element_id, revision, state FROM files WHERE file_id = CAST(:file_id AS uuid)")
_LOCK = text(
    """SELECT saga_id FROM sagas WHERE saga_id = CAST(:saga_id AS uuid) AND state = 'queued' AND attempts = :attempts
    FOR UPDATE"""
)


class Mover:
    """One per process. `reading_token` issues a token with which an element may read at another one."""

    def __init__(
        self, database: Database, peers: Peers, reading_token: Callable[[], str], call_timeout_s: float
    ) -> None:
        self._database, self._peers, self._reading_token = database, peers, reading_token
        self._timeout_s = call_timeout_s

    async def move(self, saga: ClaimedSaga, source: Peer) -> None:
        """Returns when the file is on an `rw` element only. Raises NotFound, RevisionMismatch and InvalidFields, which
        refuse the move, only while nothing was changed."""
        path = f"/api/files/{saga.file_id}"
        moved = await self._has_moved(saga)
        try:
            record = (await source.call("GET", path, timeout_s=self._timeout_s)).body
        except NotFound:
            if moved:
                return  # deleted by an attempt that ended before it could close the saga
            raise
        now = read_attributes(record, source.name)
        if not moved:
            # 1 At the source: permanent, with the target, in one change. From here on every other change is refused.
            if now.moving_to is None:
                record = await self._mark(saga, source, now, saga.wanted["targets"][0])
            # 2 At the target: a copy, which belongs to the saga and is not in the catalog.
            copy, record = await self._copy(saga, source, record)
            failpoint("admin.move_copied")
            # 3 In the catalog: readers get the copy.
            await self._switch(saga, copy)
            failpoint("admin.move_switched")
            now = read_attributes(record, source.name)
        # 4 At the source: the old copy is deleted.
        headers = {"if-match": f'"{now.revision}"', MOVED_HEADER: now.moving_to or ""}
        try:
            await source.call("DELETE", path, headers=headers, timeout_s=self._timeout_s)
        except NotFound:
            return
        except ArtStoreError as error:
            raise Unavailable(f"{source.name} cannot delete the old copy: {error.detail}", away=source.name) from error

    async def _has_moved(self, saga: ClaimedSaga) -> bool:
        async with self._database.autocommit() as conn:
            row = (await conn.execute(_ROW, {"file_id": saga.file_id})).first()
        return row is not None and row.state == AVAILABLE and row.storage_element_id != saga.storage_element_id

    async def _mark(self, saga: ClaimedSaga, source: Peer, now: Attributes, target: str) -> bytes:
        """Returns attr.json with the mark. `now` may have a mark of another target."""
        allowed = saga.wanted["if_revisions"]
        if now.moving_to is None:
            if now.retention != "temporary":
                raise InvalidFields("the file is permanent already", fields=["retention"])
            if allowed is not None and now.revision not in allowed:
                raise RevisionMismatch(f"the file is at revision {now.revision}", revision=now.revision)
        await require_held(self._database, saga)
        headers = {"if-match": f'"{now.revision}"', ACCOUNT_HEADER: saga.account}
        body = msgspec.json.encode(Changes(moving_to=target))
        try:
            path = f"/api/files/{saga.file_id}"
            marked = await source.call("PATCH", path, body=body, headers=headers, timeout_s=self._timeout_s)
        except RevisionMismatch as error:
            raise Unavailable("the file is being changed concurrently", away=source.name) from error
        failpoint("admin.move_marked")
        return marked.body

    async def _copy(self, saga: ClaimedSaga, source: Peer, record: bytes) -> tuple[Attributes, bytes]:
        """The attributes of the copy, and attr.json at the source, with its present target. Raises Unavailable: a move that
        has begun is never refused."""
        targets: Sequence[str] = saga.wanted["targets"]
        now = read_attributes(record, source.name)
        target = str(now.moving_to)
        try:
            try:
                return await self._copy_to(saga, source, await self._peer_to(target), record), record
            except (ModeForbids, StorageFull):
                # The next attempt asks the next element. An attempt before this one may have left a copy here.
                following = targets[(targets.index(target) + 1) % len(targets)]
                headers = {SAGA_HEADER: saga.saga_id}
                path = f"/api/files/{saga.file_id}"
                await (await self._peer_to(target)).call("DELETE", path, headers=headers, timeout_s=self._timeout_s)
                await self._mark(saga, source, now, following)
                raise
        except ArtStoreError as error:
            raise Unavailable(f"{target} cannot take the file: {error.detail}", away=target) from error

    async def _peer_to(self, element_id: str) -> Peer:
        """Raises NotFound, Unavailable."""
        async with self._database.autocommit() as conn:
            element = await load_element(conn, element_id)
        if element.status != ONLINE:
            raise Unavailable(f"{element_id} is unavailable", away=element_id)
        return self._peers.to(element_id, element.url)

    async def _copy_to(self, saga: ClaimedSaga, source: Peer, target: Peer, record: bytes) -> Attributes:
        order = CopyOrder(
            saga_id=saga.saga_id,
            source_id=source.name,
            source_url=source.url,
            token=self._reading_token(),
            record=msgspec.Raw(record),
        )
        body, path = msgspec.json.encode(order), f"/api/files/{saga.file_id}/copy"
        answer = await target.call("POST", path, body=body, timeout_s=self._timeout_s)
        return read_attributes(answer.body, target.name)

    async def _switch(self, saga: ClaimedSaga, copy: Attributes) -> None:
        """Raises ClaimLost when another admin has claimed the saga since."""
        async with self._database.begin() as conn:
            held = await conn.execute(_LOCK, {"saga_id": saga.saga_id, "attempts": saga.attempts})
            if held.first() is None:
                raise ClaimLost
            await upsert_files(conn, [FileEntry(copy, "update")])
