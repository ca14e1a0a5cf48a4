"""An upload under an Idempotency-Key: the same upload, between a claim and an answer that admin keeps with its commit."""

from __future__ import annotations

from starlette.requests import Request

from artstore.auth.access import principal_of
from artstore.contracts.idempotency import Answer, uploaded

from ..core.context import Context
from ..uploads.body import open_upload
from ..uploads.upload import Ids, store
from .fingerprint import of_upload
from .keys import Hold
from .replay import require_same
from .rows import Scope


async def upload_once(context: Context, request: Request, key: str) -> tuple[Answer, bool]:
    """The answer, and whether it was given before. Raises as `upload`, and KeyInUse, KeyReused, DatabaseAway."""
    # 1. The head of the body. A crash here: nothing.
    owner = principal_of(request).client_id
    opened = await open_upload(request, context.limits, context.clock)
    fingerprint = of_upload(opened)

    # 2. The claim. A crash after it: the lease runs out, and a repeat takes over.
    met = await context.keys.enter(Scope(owner, key), fingerprint)
    if isinstance(met, Answer):
        await require_same(opened.body, met)
        return met, True

    # 3.-4. Transfer and commit, which keeps the answer. A crash between them: an open saga that nobody can commit any more
    #    once the key is taken over; admin undoes it by its lease.
    async with context.keys.held(met):
        stored = await store(context, opened, owner, _Tries(context, met), keyed=True)
    return uploaded(stored.file_id, stored.record), False


class _Tries:
    """The ids of the claim for the first try; for each further one new ones, in the row before anything is sent."""

    def __init__(self, context: Context, hold: Hold) -> None:
        self._context, self._hold, self._begun = context, hold, False

    async def __call__(self) -> Ids:
        if self._begun:
            await self._context.keys.next_try(self._hold)
        self._begun = True
        return Ids(self._hold.saga_id, self._hold.file_id)
