"""A batch: many files in one request, durable on elements while the body is read, and visible by one commit at its end.

docs/decisions/0018-batches.md has the protocol, and the state that a crash after each step leaves.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.access import principal_of
from artstore.clock import uuid7, uuid7s
from artstore.contracts.elements import Element
from artstore.contracts.files import NewFile
from artstore.contracts.idempotency import Answer, batch_uploaded
from artstore.contracts.sagas import BatchKey, CommitBatch, UploadCommit, UploadSaga
from artstore.contracts.storage import GIVEN_UP_REASON, MAX_PUT_GROUP, GroupedPut, ids_in_one_folder
from artstore.errors import ArtStoreError, Conflict, InvalidFields, KeyReused
from artstore.failpoints import failpoint
from artstore.http.idempotency_key import fingerprint_of
from artstore.logs import get_logger, request_id
from artstore.tasks import spawn
from artstore.tracing import span, trace_headers

from ..admin import LEASE_S, given_up
from ..core.context import Context
from ..idempotency.keys import HeldKey
from ..idempotency.replay import response_of
from ..idempotency.store import Scope
from ..uploads.body import Body
from ..uploads.upload import (
    BEGIN_AFTER_S,
    ELEMENT_ERRORS,
    MAX_ELEMENTS,
    RENEWALS_PER_LEASE,
    TransferFailed,
    check_record,
    find_places,
    for_client,
)
from .form import BatchFile, BatchForm

log = get_logger("ingester.batch")

GROUP_BYTES = 1 << 20
"""Contents of one group, which leaves space in its request for the descriptions."""
GROUPS_AT_ONCE = 2
"""While an element stores one group of small files, the next is read."""
_COMPARED = ("content_type", "tags", "metadata", "retention")


@dataclass(frozen=True, slots=True)
class _StoredFile:
    """A file that is durable on an element, whose saga is still open."""

    saga: UploadSaga
    record: bytes


class BatchOperation:
    """One batch, from the first byte of its body to its answer."""

    def __init__(self, context: Context, form: BatchForm, owner: str) -> None:
        self._context, self._form, self._owner = context, form, owner
        self._results: dict[int, _StoredFile | ArtStoreError] = {}
        self._open: dict[str, UploadSaga] = {}
        """By id, every saga whose file an element may have."""
        self._begun: set[str] = set()
        self._sending: set[asyncio.Task[None]] = set()

    @classmethod
    def open(cls, context: Context, request: Request) -> BatchOperation:
        """Nothing of the body is read yet. Raises Malformed, TooLarge, LengthRequired."""
        # 1. Authorised: the edge has refused callers without files:write.
        return cls(context, BatchForm(request, context.limits, context.clock), principal_of(request).client_id)

    async def respond(self, key: str | None) -> Response:
        """Raises a typed error about the whole batch, and then nothing of it stays."""
        if key is None:
            return response_of(await self._run(None))
        scope, keys = Scope(self._owner, key), self._context.keys
        # 2. Claim the key. Its files are not known yet, so a repeat is compared with the first answer.
        acquired = await keys.acquire(scope, fingerprint_of("POST", "batch"), str(uuid7()))
        if isinstance(acquired, Answer):
            await self._require_same(acquired)
            return response_of(acquired, replayed=True)
        async with keys.hold(acquired):
            return response_of(await self._run(acquired))

    async def _run(self, key: HeldKey | None) -> Answer:
        try:
            # 3. Store each file on an element as it arrives. A crash here: admin undoes what was stored, since no saga
            #    is committed.
            with span("batch.transfer"):
                async with self._leases():
                    await self._receive()
            failpoint("batch.transferred")
            # 4. The body has ended properly: commit all files in one transaction, with the answer of the key. A crash
            #    after it: all files exist, unacknowledged; a repeat under the key gets the answer.
            answer = await self._commit(key)
            failpoint("batch.committed")
        except BaseException as failure:
            self._context.sagas.abandon_all(list(self._open.values()), type(failure).__name__)
            self._count(failure)
            raise
        self._count(None)
        # 5. Now, and not before, the answer may say 201.
        return answer

    async def _receive(self) -> None:
        group: list[BatchFile] = []
        size_bytes = 0
        try:
            while (file := await self._form.next_file()) is not None:
                if file.fault is not None:
                    self._results[file.index] = file.fault
                elif file.whole:
                    group.append(file)
                    size_bytes += file.size_bytes
                    if len(group) == MAX_PUT_GROUP or size_bytes >= GROUP_BYTES:
                        await self._send(group)
                        group, size_bytes = [], 0
                else:
                    await self._store_large(file)
            if group:
                await self._send(group)
            while self._sending:
                await self._wait_for_group()
        finally:
            for task in self._sending:
                task.cancel()
            if self._sending:
                await asyncio.wait(self._sending)

    async def _send(self, group: list[BatchFile]) -> None:
        """Stores a group of small files beside the reading. Raises the error of an earlier group."""
        if len(self._sending) == GROUPS_AT_ONCE:
            await self._wait_for_group()
        self._sending.add(spawn("batch.group", self._store_group(group)))

    async def _wait_for_group(self) -> None:
        done, self._sending = await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _store_group(self, group: list[BatchFile]) -> None:
        for retention in dict.fromkeys(file.new.retention for file in group):
            files = [file for file in group if file.new.retention == retention]
            contents = {file.index: b"".join(file.head) for file in files}
            try:
                elements = self._elements_for(files[0].new, max(map(len, contents.values())))
            except ArtStoreError as error:
                self._results |= {file.index: error for file in files}
                continue
            for element in elements:
                files = await self._put_all(element, files, contents)
                if not files:
                    break

    async def _put_all(
        self, element: Element, files: Sequence[BatchFile], contents: dict[int, bytes]
    ) -> list[BatchFile]:
        """One attempt on one element. Returns the files that a different element may take."""
        sagas = self._new_sagas(element, len(files))
        # While admin does not answer, the begin comes first, since it fails at once.
        if not self._context.sagas.admin_answers:
            await self._begin(sagas)
        trace, request = trace_headers(), request_id.get()
        puts = []
        for file, saga in zip(files, sagas, strict=True):
            stated = {digest.algorithm: digest.value for digest in file.digests}
            new, content = self._new_file(file, saga), contents[file.index]
            digests = stated.get("sha-256"), stated.get("md5")
            puts.append(GroupedPut(saga.file_id, saga.saga_id, new, content, *digests, request, trace, True))
        outcomes: Sequence[bytes | ArtStoreError]
        try:
            outcomes = await self._context.elements.put_all(element, puts)
        except ArtStoreError as error:
            outcomes = [error] * len(files)
        for file, saga, outcome in zip(files, sagas, outcomes, strict=True):
            self._note(file, saga, outcome, len(contents[file.index]))
        return [file for file in files if isinstance(self._results[file.index], ELEMENT_ERRORS)]

    async def _store_large(self, file: BatchFile) -> None:
        """Streams one file. The form is read further only when it is stored or has failed."""
        body = Body(file, size_bytes=None, at_most_bytes=file.at_most_bytes, digests=file.digests)
        await body.buffer_head()
        try:
            elements = self._elements_for(file.new, file.at_most_bytes)
        except ArtStoreError as error:
            self._results[file.index] = error
            return
        for element in elements:
            (saga,) = self._new_sagas(element, 1)
            if not self._context.sagas.admin_answers:
                await self._begin([saga])
            outcome: bytes | ArtStoreError
            try:
                new = self._new_file(file, saga)
                outcome = await self._context.elements.put(element, saga.file_id, saga.saga_id, new, body)
            except ArtStoreError as error:
                if self._form.failure is not None:
                    raise self._form.failure from error
                outcome = error
            self._note(file, saga, outcome, body.sent_bytes)
            if not isinstance(self._results[file.index], ELEMENT_ERRORS) or not body.replayable:
                return

    def _note(self, file: BatchFile, saga: UploadSaga, outcome: bytes | ArtStoreError, size_bytes: int) -> None:
        """The outcome of an attempt. A failed one is undone at once."""
        if isinstance(outcome, bytes):
            try:
                check_record(outcome, saga, size_bytes)
            except ArtStoreError as error:
                outcome = error
        if isinstance(outcome, bytes):
            self._results[file.index] = _StoredFile(saga, outcome)
            return
        if isinstance(outcome, Conflict) and outcome.fields.get("reason") == GIVEN_UP_REASON:
            outcome = given_up(saga.saga_id, outcome)
        self._results[file.index] = for_client(TransferFailed(saga.storage_element_id, outcome))
        del self._open[saga.saga_id]
        self._context.sagas.abandon(saga, outcome.code)

    def _elements_for(self, new: NewFile, size_bytes: int | None) -> list[Element]:
        return find_places(self._context, new.retention, size_bytes)[:MAX_ELEMENTS]

    def _new_sagas(self, element: Element, count: int) -> list[UploadSaga]:
        sagas = [
            UploadSaga(saga_id=saga_id, file_id=file_id, storage_element_id=element.id, owner=self._owner)
            for saga_id, file_id in zip(uuid7s(count), ids_in_one_folder(count), strict=True)
        ]
        self._open |= {saga.saga_id: saga for saga in sagas}
        return sagas

    def _new_file(self, file: BatchFile, saga: UploadSaga) -> NewFile:
        """A file without a name is named by its id."""
        filename = file.new.filename if file.is_named else saga.file_id
        return msgspec.structs.replace(file.new, filename=filename, owner=self._owner)

    @asynccontextmanager
    async def _leases(self) -> AsyncIterator[None]:
        """Holds the sagas of a body that takes longer than BEGIN_AFTER_S, as those of single uploads (decision 11)."""
        renewal = spawn("batch.leases", self._renew_forever())
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.wait((renewal,))

    async def _renew_forever(self) -> None:
        lease_s, renewed_s = LEASE_S, asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(BEGIN_AFTER_S)
            now_s = asyncio.get_running_loop().time()
            all_of_them = now_s - renewed_s >= lease_s / RENEWALS_PER_LEASE
            due = [saga for saga in self._open.values() if all_of_them or saga.saga_id not in self._begun]
            try:
                lease_s = await self._begin(due)
                renewed_s = now_s if all_of_them else renewed_s
            except ArtStoreError as error:
                log.warning("leases not renewed", sagas=len(due), error=error.detail)

    async def _begin(self, sagas: Sequence[UploadSaga]) -> float:
        lease_s = await self._context.sagas.begin_all(sagas)
        self._begun.update(saga.saga_id for saga in sagas)
        return lease_s

    async def _commit(self, key: HeldKey | None) -> Answer:
        """Files that the catalog refuses get their problem, and the others are committed without them."""
        while stored := [result for result in self._in_order() if isinstance(result, _StoredFile)]:
            answer = batch_uploaded(self._encoded_results())
            commits = [UploadCommit(saga_id=one.saga.saga_id, attributes=msgspec.Raw(one.record)) for one in stored]
            kept = None if key is None else BatchKey(saga_id=key.saga_id, answer=msgspec.Raw(answer.body))
            try:
                with span("batch.commit"):
                    await self._context.sagas.commit_batch(CommitBatch(sagas=commits, key=kept))
                return answer
            except InvalidFields as refusal:
                self._refuse(refusal)
        results = list(self._in_order())
        failed = [result for result in results if isinstance(result, ArtStoreError) and result.status >= 500]
        if len(failed) == len(results):  # of the service, not of the files
            raise failed[0]
        if key is not None:  # the batch had no effect: a repeat is tried anew
            await key.release()
        return batch_uploaded(self._encoded_results())

    def _refuse(self, refusal: InvalidFields) -> None:
        """Takes the files that `refusal` names out of the batch. Raises it when it names none."""
        faults = refusal.fields.get("faults", {})
        named = [
            (index, result)
            for index, result in self._results.items()
            if isinstance(result, _StoredFile) and result.saga.saga_id in faults
        ]
        if not named:
            raise refusal
        for index, result in named:
            saga = self._open.pop(result.saga.saga_id)
            reason = f"{refusal.detail}: {faults[saga.saga_id]}"
            self._results[index] = InvalidFields(reason, fields=refusal.fields.get("fields", []))
            self._context.sagas.abandon(saga, InvalidFields.code)

    def _in_order(self) -> Iterable[_StoredFile | ArtStoreError]:
        return (self._results[index] for index in range(self._form.count))

    def _encoded_results(self) -> bytes:
        given = request_id.get()
        encoded = [
            b'{"index":%d,"status":201,"file":%b}' % (index, result.record)
            if isinstance(result, _StoredFile)
            else b'{"index":%d,"status":%d,"problem":%b}' % (index, result.status, result.to_wire(given))
            for index, result in enumerate(self._in_order())
        ]
        return b'{"results":[' + b",".join(encoded) + b"]}"

    def _count(self, failure: BaseException | None) -> None:
        """Counts every file that was read, by its own result, or by the failure of the batch."""
        whole = failure.code if isinstance(failure, ArtStoreError) else "cancelled" if failure else None
        for result in self._results.values():
            code = result.code if isinstance(result, ArtStoreError) else whole or "ok"
            self._context.files.operations.labels("put", code).inc()

    async def _require_same(self, answer: Answer) -> None:
        """Reads the files without storing them. Raises KeyReused when one of them differs from what the first batch under
        the key stored, and the errors of the body."""
        results: list[dict[str, Any]] = orjson.loads(answer.body)["results"]
        while (file := await self._form.next_file()) is not None:
            result = results[file.index] if file.index < len(results) else None
            if result is None or not await _is_same(file, result.get("file")):
                raise KeyReused(f"file {file.index} differs from the one of the first batch under this key")
        if self._form.count < len(results):
            raise KeyReused(f"the first batch under this key had {len(results)} files, not {self._form.count}")


async def _is_same(file: BatchFile, record: dict[str, Any] | None) -> bool:
    """True also for a file that was refused, because its bytes are not known."""
    if record is None:
        return True
    if file.fault is not None or (file.is_named and file.new.filename != record["filename"]):
        return False
    if any(getattr(file.new, name) != record[name] for name in _COMPARED):
        return False
    sha256, size_bytes = hashlib.sha256(), 0
    while piece := await file.next_piece():
        sha256.update(piece)
        size_bytes += len(piece)
    return (f"sha256:{sha256.hexdigest()}", size_bytes) == (record["checksum"], record["size_bytes"])
