"""The hot path: from a request to a file that is safe on a disk and known to admin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from starlette.requests import Request

from artstore.auth.access import principal_of
from artstore.clock import uuid7
from artstore.contracts.elements import Element
from artstore.contracts.files import NewFile
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
from artstore.logs import get_logger
from artstore.tracing import span

from ..admin import given_up
from ..core.context import Context
from ..placement import candidates
from .body import Body, Opened, open_upload
from .form import new_file
from .lease import under_lease

log = get_logger("ingester.upload")

MAX_ATTEMPTS = 3
"""Elements tried for one upload."""
OF_THE_ELEMENT = (Unavailable, Overloaded, ElementFailed, BadGateway, InternalError, StorageFull, ModeForbids)
"""What another element may do better. What is wrong with the file itself every element would refuse."""


class _ElementTrouble(Exception):
    """The transfer, and nothing else, failed for a reason of the element's. Never leaves this file."""

    def __init__(self, element_id: str, error: ArtStoreError) -> None:
        super().__init__(str(error))
        self.element_id, self.error = element_id, error


@dataclass(frozen=True, slots=True)
class Stored:
    """An acknowledged file; `record` is its attr.json."""

    file_id: str
    record: bytes


@dataclass(frozen=True, slots=True)
class Ids:
    """Of one try on one element. What may be left of a try that failed belongs to another file."""

    saga_id: str
    file_id: str


async def fresh_ids() -> Ids:
    return Ids(str(uuid7()), str(uuid7()))


async def upload(context: Context, request: Request) -> Stored:
    """Takes one file. Raises a typed error, and then nothing of the file will stay."""
    # 1. Authorised: the edge let pass who may write files, before any of the body was read.
    owner = principal_of(request).client_id

    # 2. The head of the body: what is wrong with the request shows here, before anything is written.
    opened = await open_upload(request, context.limits, context.clock)
    return await store(context, opened, owner, fresh_ids)


async def store(
    context: Context, opened: Opened, owner: str, next_ids: Callable[[], Awaitable[Ids]], *, keyed: bool = False
) -> Stored:
    """Steps 3 to 7. `next_ids` is asked before each try; of a `keyed` one admin keeps the answer."""
    ids = await next_ids()
    new = _described(opened, ids.file_id, owner, context)

    # 3. The elements that can take it, best first.
    elements = context.discovery.elements
    broken = [element.id for element in elements if context.elements.refuses(element)]
    order = candidates(elements, size_bytes=opened.body.at_most_bytes, retention=new.retention, broken=broken)
    order = order[:MAX_ATTEMPTS]

    # 4.–6. on the first of them; on the next one while the whole body can still be sent.
    while True:
        try:
            return await _store(context, order.pop(0), ids, new, opened.body, keyed)
        except _ElementTrouble as trouble:
            if not order or not opened.body.replayable:
                raise _for_client(trouble) from None
            log.warning("element failed, trying the next", element=trouble.element_id, error=trouble.error.detail)
        ids = await next_ids()
        new = _described(opened, ids.file_id, owner, context)


async def _store(context: Context, element: Element, ids: Ids, new: NewFile, body: Body, keyed: bool) -> Stored:
    saga = UploadSaga(saga_id=ids.saga_id, file_id=ids.file_id, storage_element_id=element.id, owner=new.owner)
    try:
        # 4. Begin at admin beside 5. the transfer. A crash here: the element drops a body that is cut off, and the
        #    file of one that was not is undone by admin when the saga's lease has run out.
        with span("upload.transfer", element=element.id):
            record = await under_lease(lambda: context.sagas.begin(saga), _transfer(context, element, saga, new, body))
        failpoint("upload.transferred")

        # 6. Commit. A crash right before it: undone as above. Right after: the file is there, though nobody was told.
        attributes = _checked(record, saga, body)
        with span("upload.commit"):
            await context.sagas.commit(UploadCommit(saga_id=saga.saga_id, attributes=attributes, keyed=keyed))
        failpoint("upload.committed")
    except BaseException as failure:
        context.sagas.abandon(saga, _reason(failure))
        raise
    # 7. Now, and not before, the answer may be 201.
    return Stored(saga.file_id, record)


def _for_client(trouble: _ElementTrouble) -> ArtStoreError:
    """Which element it was, and in which mode, the client did not choose: what we did not know yet is no mistake of its."""
    if isinstance(trouble.error, ModeForbids):
        return Unavailable(f"{trouble.element_id} has been closed a moment ago: send it again", away=trouble.element_id)
    return trouble.error


async def _transfer(context: Context, element: Element, saga: UploadSaga, new: NewFile, body: Body) -> bytes:
    try:
        return await context.elements.put(element, saga.file_id, saga.saga_id, new, body)
    except OF_THE_ELEMENT as error:
        raise _ElementTrouble(element.id, error) from error
    except Conflict as refusal:
        if refusal.fields.get("reason") == GIVEN_UP_REASON:
            raise given_up(saga.saga_id, refusal) from refusal
        raise


def _described(opened: Opened, file_id: str, owner: str, context: Context) -> NewFile:
    filename = file_id if opened.filename is None else opened.filename
    return new_file(
        opened.fields, filename=filename, content_type=opened.content_type, owner=owner, now=context.clock.now()
    )


def _checked(record: bytes, saga: UploadSaga, body: Body) -> dict[str, Any]:
    """The element's answer, if it is about the file that was sent. Raises BadGateway."""
    try:
        attributes = orjson.loads(record)
        told = (attributes["file_id"], attributes["storage_element_id"], attributes["size_bytes"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise BadGateway(f"{saga.storage_element_id} answered something that is no attr.json") from error
    if told != (saga.file_id, saga.storage_element_id, body.sent_bytes):
        raise BadGateway(f"{saga.storage_element_id} stored another file than the one it was sent")
    return msgspec.convert(attributes, dict[str, Any])


def _reason(failure: BaseException) -> str:
    if isinstance(failure, _ElementTrouble):
        failure = failure.error
    return failure.code if isinstance(failure, ArtStoreError) else type(failure).__name__
