"""The hot path: from a request to a file that is durable on an element's disk and known to admin."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, get_args

import msgspec
from starlette.requests import Request

from artstore.auth.access import principal_of
from artstore.clock import uuid7
from artstore.contracts.elements import Element
from artstore.contracts.files import NewFile, Retention
from artstore.contracts.idempotency import Answer, uploaded
from artstore.contracts.sagas import UploadCommit, UploadSaga
from artstore.contracts.storage import GIVEN_UP_REASON
from artstore.errors import (
    ArtStoreError,
    BadGateway,
    Conflict,
    ElementFailed,
    InternalError,
    ModeForbids,
    Overloaded,
    StorageFull,
    Unavailable,
)
from artstore.failpoints import failpoint
from artstore.http.idempotency_key import fingerprint_of
from artstore.logs import get_logger
from artstore.tasks import spawn
from artstore.tracing import span

from ..admin import Sagas, given_up
from ..claims import Claims
from ..core.context import Context
from ..idempotency.keys import HeldKey
from ..placement import candidates
from .body import Admit, UploadRequest, open_upload
from .form import new_file

log = get_logger("ingester.upload")

MAX_ELEMENTS = 3
"""Elements tried for one upload."""
BEGIN_AFTER_S = 1.0
"""A buffered body is transferred without a begin if it takes no longer, because its commit says all that a begin does.
Longer than a transfer to a busy element, so that load does not cause more requests; far shorter than a lease."""
RENEWALS_PER_LEASE = 5
ELEMENT_ERRORS = (Unavailable, Overloaded, ElementFailed, BadGateway, InternalError, StorageFull, ModeForbids)
"""Errors that a different element may not have. Every element would refuse a file that is itself invalid."""

_FIXED_TIME = datetime(2000, 1, 1, tzinfo=UTC)
_NO_NAME = "00000000-0000-0000-0000-000000000000"
T = TypeVar("T")


class _Stored(msgspec.Struct, frozen=True):
    """The fields of attr.json that show which file an element has stored."""

    file_id: str
    storage_element_id: str
    size_bytes: int


class TransferFailed(Exception):
    """The element, and not the request, is the reason. Never leaves this folder."""

    def __init__(self, element_id: str, error: ArtStoreError) -> None:
        super().__init__(str(error))
        self.element_id, self.error = element_id, error


class UploadOperation:
    """One upload, from the head of its body to its answer.

    Each attempt on an element has a saga and a file id of its own: remains of a failed attempt belong to a different file.
    """

    def __init__(self, context: Context, request: UploadRequest, owner: str) -> None:
        self.owner, self.body = owner, request.body
        self.saga_id = str(uuid7())
        self.file_id = self._made_id = str(uuid7())
        self._context, self._request = context, request
        self._key: HeldKey | None = None
        self._sagas: Sagas | Claims = context.sagas
        self._begin_after_s = BEGIN_AFTER_S if self.body.buffered and context.sagas.admin_answers else 0

    @classmethod
    async def open(cls, context: Context, request: Request) -> UploadOperation:
        # 1. Authorised: the edge has refused callers without files:write before any of the body was read.
        owner = principal_of(request).client_id
        # 2. The head of the body: errors of the request show here, before anything is written.
        return cls(context, await open_upload(request, context.limits, context.clock, admit_in(context)), owner)

    def fingerprint(self) -> str:
        """Fields that come after a large file are compared by `describes`."""
        if not self._request.fields_complete:
            return fingerprint_of("POST", "upload", "fields follow")
        return self.fingerprint_under("POST", "upload")

    def fingerprint_under(self, method: str, path: str) -> str:
        """Covers the parsed fields, since a form's boundary and the order of its parts differ between attempts."""
        request = self._request
        filename = _NO_NAME if request.filename is None else request.filename
        new = new_file(  # a fixed time stands for ttl_days
            request.fields, filename=filename, content_type=request.content_type, owner="", now=_FIXED_TIME
        )
        return fingerprint_of(method, path, msgspec.to_builtins(new))

    def describes(self, record: Mapping[str, Any]) -> bool:
        """The record has the fields of this request that the fingerprint does not cover, all but the exact `ttl_days`. Call
        it when the body has been read."""
        if self._request.fields_complete:
            return True
        new = self._request.complete()
        filename = new.filename if self._request.is_named else record["file_id"]
        named = msgspec.structs.replace(new, filename=filename, owner=record["owner"], expires_at=record["expires_at"])
        wanted: dict[str, Any] = msgspec.to_builtins(named)
        return fingerprint_of(wanted) == fingerprint_of({name: record[name] for name in wanted})

    async def run_under(self, key: HeldKey) -> Answer:
        """Admin stores the answer in the transaction of the commit, if the key still names this attempt's saga. A crash
        before the commit leaves an open saga, which cannot be committed once the key is taken over and which admin undoes."""
        self._key, self.saga_id = key, key.saga_id
        return await self.run()

    async def run(self) -> Answer:
        """Raises a typed error, and then nothing of the file stays."""
        record = await self._store_on_any()
        # 7. Now, and not before, the answer may be 201.
        return uploaded(self.file_id, record)

    async def _store_on_any(self) -> bytes:
        """The file's attr.json, once its saga is committed."""
        new = self._new_file()
        # 3. The elements that can take the file, best first.
        elements = find_places(self._context, new.retention, self.body.at_most_bytes)[:MAX_ELEMENTS]
        # 4.-6. on the first of them; on the next one while the whole body can still be sent.
        while True:
            try:
                return await self._store(elements.pop(0), new)
            except TransferFailed as failure:
                if not elements or not self.body.replayable:
                    raise for_client(failure) from None
                log.warning("element failed, trying the next", element=failure.element_id, error=failure.error.detail)
            await self._next_attempt()
            new = self._new_file()

    async def _store(self, element: Element, new: NewFile) -> bytes:
        """One attempt on one element. Returns the file's attr.json."""
        sagas = self._sagas
        saga = UploadSaga(saga_id=self.saga_id, file_id=self.file_id, storage_element_id=element.id, owner=self.owner)
        try:
            # 4. Begin at admin beside 5. the transfer, or with the commit when the transfer is short. While admin does
            #    not answer, the begin comes first, since it fails at once. A crash here: the element discards an
            #    incomplete body, and admin undoes a complete file when the lease has ended.
            with span("upload.transfer", saga_attributes(saga)):
                record = await under_lease(
                    lambda: sagas.begin(saga), self._transfer(element, saga, new), begin_after_s=self._begin_after_s
                )
            failpoint("upload.transferred")
            sent = self._request.new
            if self._request.complete() != sent:
                # Fields after the file change what the element has got: a copy gets them.
                return await self._copy(element, saga, record)

            # 6. Commit. A crash just before it: undone as above. Just after: the file exists, unacknowledged.
            check_record(record, saga, self.body.sent_bytes)
            with span("upload.commit"):
                keyed, attributes = self._key is not None, msgspec.Raw(record)
                await sagas.commit(UploadCommit(saga_id=saga.saga_id, attributes=attributes, keyed=keyed))
            failpoint("upload.committed")
        except BaseException as failure:
            sagas.abandon(saga, _reason(failure))
            raise
        return record

    async def _copy(self, element: Element, saga: UploadSaga, record: bytes) -> bytes:
        """Stores the file again, under ids and a saga of its own, with the bytes that `element` has got, and has admin undo
        `saga`. The ingester keeps no bytes meanwhile. A crash leaves two uncommitted uploads, or one and a file."""
        check_record(record, saga, self.body.sent_bytes)
        await self._next_attempt()

        async def store_copy() -> bytes:
            async with self._context.elements.open_content(element, saga.file_id, record) as body:
                self.body = body
                return await self._store_on_any()

        stored = await under_lease(lambda: self._context.sagas.begin(saga), store_copy())
        self._context.sagas.abandon(saga, "copied")
        return stored

    async def _transfer(self, element: Element, saga: UploadSaga, new: NewFile) -> bytes:
        unknown = saga.file_id == self._made_id  # to all clients, until the answer
        try:
            return await self._context.elements.put(
                element, saga.file_id, saga.saga_id, new, self.body, settle_late=unknown
            )
        except ELEMENT_ERRORS as error:
            raise TransferFailed(element.id, error) from error
        except Conflict as refusal:
            if refusal.fields.get("reason") == GIVEN_UP_REASON:
                raise given_up(saga.saga_id, refusal) from refusal
            raise

    async def _next_attempt(self) -> None:
        self.saga_id = str(uuid7())
        self.file_id = self._made_id = str(uuid7())
        if self._key is not None:
            await self._key.next_attempt(self.saga_id, self.file_id)

    def _new_file(self) -> NewFile:
        """A file without a name is named by its id."""
        new = self._request.new
        filename = new.filename if self._request.is_named else self.file_id
        return msgspec.structs.replace(new, filename=filename, owner=self.owner)


def saga_attributes(saga: UploadSaga) -> dict[str, str]:
    """An attribute of a span: the undo of a saga, which is another trace, has the same."""
    return {
        "artstore.saga_id": saga.saga_id,
        "artstore.file_id": saga.file_id,
        "artstore.element": saga.storage_element_id,
    }


def find_places(context: Context, retention: Retention, size_bytes: int | None) -> list[Element]:
    """Elements that can take the file, best first. Raises StorageFull, Unavailable."""
    known = context.discovery.elements
    broken = [element.id for element in known if context.elements.breaker_open(element)]
    return candidates(known, size_bytes=size_bytes, retention=retention, broken=broken)


def admit_in(context: Context) -> Admit:
    return partial(_require_place, context)


def _require_place(context: Context, retention: Retention | None, size_bytes: int | None) -> None:
    """Raises StorageFull or Unavailable when no element can take a file. An unknown retention may be any."""
    refused: ArtStoreError | None = None
    for possible in (retention,) if retention else get_args(Retention):
        try:
            find_places(context, possible, size_bytes)
        except (StorageFull, Unavailable) as error:
            refused = refused or error
        else:
            return
    if refused is not None:
        raise refused


def check_record(record: bytes, saga: UploadSaga, size_bytes: int) -> None:
    """Raises BadGateway unless the element's answer describes the file that was sent."""
    try:
        stored = msgspec.json.decode(record, type=_Stored)
    except msgspec.MsgspecError as error:
        raise BadGateway(f"{saga.storage_element_id} answered something other than attr.json") from error
    if stored != _Stored(saga.file_id, saga.storage_element_id, size_bytes):
        raise BadGateway(f"{saga.storage_element_id} stored a different file than the one it was sent")


async def under_lease(
    begin: Callable[[], Awaitable[float]], transfer: Coroutine[Any, Any, T], *, begin_after_s: float = 0
) -> T:
    """The transfer's result, once the saga has begun too, unless the transfer takes no longer than `begin_after_s`.
    `begin` returns the lease in seconds and is repeated to renew it.

    A first `begin` that fails stops the transfer. A failed renewal does not, since the commit carries all that admin needs.
    """
    moving = spawn("transfer", transfer)
    try:
        if begin_after_s and (await asyncio.wait((moving,), timeout=begin_after_s))[0]:
            return moving.result()
        lease_s = await begin()
        while not (await asyncio.wait((moving,), timeout=lease_s / RENEWALS_PER_LEASE))[0]:
            try:
                lease_s = await begin()
            except ArtStoreError as error:
                log.warning("lease not renewed", error=error.detail)
        return moving.result()
    finally:
        if not moving.done():
            moving.cancel()
            await asyncio.wait((moving,))


def for_client(failure: TransferFailed) -> ArtStoreError:
    """The client did not choose the element, so a mode that has just changed is answered 503, not as its error."""
    if isinstance(failure.error, ModeForbids):
        return Unavailable(f"{failure.element_id} was closed a moment ago: send it again", away=failure.element_id)
    return failure.error


def _reason(failure: BaseException) -> str:
    if isinstance(failure, TransferFailed):
        failure = failure.error
    return failure.code if isinstance(failure, ArtStoreError) else type(failure).__name__
