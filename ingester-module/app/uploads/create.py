"""PUT /api/files/{file_id} with `If-None-Match: *`: an upload under an id that its client made.

The id is claimed at admin before an element hears of it, so that of several uploads under it one is made at most
(docs/decisions/0014). There is no second element: what a first one may still have would be under the same id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import text
from starlette.requests import Request

from artstore.auth.access import principal_of
from artstore.catalog.tables import AVAILABLE
from artstore.contracts.idempotency import HEADER as KEY_HEADER
from artstore.contracts.sagas import UploadSaga
from artstore.errors import (
    ArtStoreError,
    InvalidFields,
    PreconditionRequired,
    RevisionMismatch,
    Unavailable,
    UnsupportedHeader,
    UnsupportedMediaType,
)
from artstore.failpoints import failpoint
from artstore.http.data_routes import file_id_of

from ..claims import RENEW_AFTER_S
from ..core.context import Context
from .body import FORM, UploadRequest, media_type, open_upload
from .upload import TransferFailed, UploadOperation, admit_in, find_places, for_client

LOOK_TIMEOUT_S = 2.0
_OF_CLIENTS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_STATE = text("SELECT state FROM files WHERE file_id = CAST(:file_id AS uuid)")


class CreateOperation(UploadOperation):
    def __init__(self, context: Context, request: UploadRequest, owner: str, file_id: str) -> None:
        super().__init__(context, request, owner)
        self.file_id = file_id
        self._sagas = context.claims
        self._begin_after_s = RENEW_AFTER_S

    @classmethod
    async def open(cls, context: Context, request: Request) -> CreateOperation:
        """Reads the head of the body, unless the head of the request or the catalog shows that the answer is no.

        The catalog is not asked for a request under a key: the file may be of its own first attempt.
        """
        require_new(request.headers.getlist("if-none-match"))
        file_id = _id_of_client(request)
        if media_type(request) == FORM:
            raise UnsupportedMediaType("a file under an id of yours must be sent as the raw body, not as a form")
        if KEY_HEADER not in request.headers:
            await _require_unknown(context, file_id)
        upload = await open_upload(request, context.limits, context.clock, admit_in(context))
        return cls(context, upload, principal_of(request).client_id, file_id)

    def fingerprint(self) -> str:
        return self.fingerprint_under("PUT", self.file_id)

    async def _store_on_any(self) -> bytes:
        new = self._new_file()
        element = find_places(self._context, new.retention, self.body.at_most_bytes)[0]
        saga = UploadSaga(saga_id=self.saga_id, file_id=self.file_id, storage_element_id=element.id, owner=self.owner)
        try:
            await self._context.claims.claim(saga)
        except BaseException as failure:
            if not isinstance(failure, ArtStoreError) or failure.status >= 500:  # it may have been made
                self._context.claims.abandon(saga, "claim_unknown")
            raise
        try:
            failpoint("create.claimed")
            record = await self._store(element, new)
        except TransferFailed as failure:
            raise for_client(failure) from None
        # Readers may remember that there is no such file. A crash before this leaves it to the event of the commit.
        await self._context.invalidation.invalidate(self.file_id, 1, "put", element_id=element.id)
        return record


def require_new(conditions: Sequence[str]) -> None:
    """Raises PreconditionRequired, UnsupportedHeader."""
    if not conditions:
        raise PreconditionRequired("state If-None-Match: * to create a file under an id of yours")
    if {one.strip() for one in conditions} != {"*"}:
        raise UnsupportedHeader("if-none-match must be * here: only a new file can be put", header="if-none-match")


def _id_of_client(request: Request) -> str:
    file_id = file_id_of(request)
    if not _OF_CLIENTS.fullmatch(file_id):
        raise InvalidFields("file_id must be a UUID of version 4 or 7 (RFC 9562)", fields=["file_id"])
    return file_id


async def _require_unknown(context: Context, file_id: str) -> None:
    """Raises RevisionMismatch for a file that the catalog has, before its body is sent in vain. The claim decides."""
    try:
        async with context.database.autocommit(timeout_s=LOOK_TIMEOUT_S) as connection:
            state = (await connection.execute(_STATE, {"file_id": file_id})).scalar_one_or_none()
    except Unavailable:
        return
    if state == AVAILABLE:
        raise RevisionMismatch("a file with this id exists already")
