"""Makes the file of an upload whose bytes are all durable: begin, put on its element, commit.

Any request that finds such an upload does this, under the saga that its record names, so it may be repeated after a crash. A saga
that was undone meanwhile cannot be committed any more: then the record draws new ids.
"""

from __future__ import annotations

import msgspec

from artstore.contracts.sagas import UploadCommit, UploadSaga
from artstore.contracts.storage import GIVEN_UP_REASON, read_attributes
from artstore.contracts.uploads import UploadState
from artstore.errors import BadGateway, Conflict, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.tracing import span

from ..admin import GivenUp
from ..core.context import Context
from ..uploads.upload import saga_attributes, under_lease
from .elements import Place

log = get_logger("ingester.resumable")

MAX_ATTEMPTS = 3


def is_whole(state: UploadState) -> bool:
    """All bytes are durable, and the file may not exist yet."""
    return state.offset == state.length and not state.committed


async def finish(context: Context, place: Place, state: UploadState) -> UploadState:
    """The state with the file, or as it is while bytes are missing. Raises the errors of an upload; a repeat continues."""
    for _ in range(MAX_ATTEMPTS):
        if not is_whole(state):
            return state
        with context.files.operation("put"):
            state = await _attempt(context, place, state)
    if is_whole(state):
        raise Unavailable("the upload could not be completed: ask for it again")
    return state


async def _attempt(context: Context, place: Place, state: UploadState) -> UploadState:
    if state.saga_id is None or state.file_id is None:
        raise Unavailable("the upload has no saga yet: ask for it again")
    saga_id, sagas = state.saga_id, context.sagas
    saga = UploadSaga(saga_id=saga_id, file_id=state.file_id, storage_element_id=place.element.id, owner=state.owner)
    try:
        # 1. Begin. A saga that was committed before must not put the file again: it may have been deleted since.
        if not await sagas.begin_unless_committed(saga):
            failpoint("resumable.begun")
            # 2. The file, durable on its element. A crash from here on: the lease has it undone, unless a repeat comes first.
            with span("upload.transfer", saga_attributes(saga)):
                record = await under_lease(lambda: sagas.begin(saga), context.uploads.complete(place, saga_id))
            stored = read_attributes(record, place.element.id)
            if (stored.file_id, stored.size_bytes) != (state.file_id, state.length):
                raise BadGateway(f"{place.element.id} made another file than the upload's")
            failpoint("resumable.completed")
            # 3. Commit. A crash after it: a repeat finds the saga committed.
            with span("upload.commit"):
                await sagas.commit(UploadCommit(saga_id=saga_id, attributes=msgspec.Raw(record)))
            failpoint("resumable.committed")
    except GivenUp as error:
        return await _draw_again(context, place, saga_id, error.detail)
    except Conflict as refusal:
        if refusal.fields.get("reason") == GIVEN_UP_REASON:
            return await _draw_again(context, place, saga_id, refusal.detail)
        # Another request has completed it meanwhile, or is about to.
        found = await context.uploads.find(place)
        if found.committed or found.saga_id != saga_id or await sagas.begin_unless_committed(saga):
            return found
        raise
    # 4. The record. A crash before it: a repeat finds the saga committed and continues here.
    return await context.uploads.settle(place, saga_id, committed=True)


async def _draw_again(context: Context, place: Place, saga_id: str, reason: str) -> UploadState:
    log.warning("completion given up, trying again", saga_id=saga_id, reason=reason)
    return await context.uploads.settle(place, saga_id, committed=False)
