"""Unfinished resumable uploads: `<root>/uploads/<id>` holds the bytes, `<id>.json` the record of what is durable of them.

The record is the truth: bytes beyond its offset do not count. It is written after the bytes are synced, and it goes before
them. docs/decisions/0019-resumable-uploads.md has the order of events and what a crash leaves.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
import orjson

from artstore.clock import parse_rfc3339, rfc3339, uuid7
from artstore.contracts.files import MAX_SIZE_BYTES, NewFile, check_new_file, encode, is_id
from artstore.contracts.uploads import NewUpload, UploadState
from artstore.errors import NotFound, StorageFull, TooLarge, TooManyUploads, Unavailable, UploadLocked
from artstore.failpoints import failpoint
from artstore.logs import get_logger

from . import durable
from .attributes import first_revision
from .locks import Stoppable
from .paths import RECORD_SUFFIX, printable
from .running_hash import RunningHash
from .store import Store

log = get_logger("element.store")

SCHEMA_VERSION = 1
MAX_PER_ACCOUNT = 1_000
"""Unfinished uploads of an account on one element."""
MAX_UNFINISHED = 10_000
MAX_FINISHED = 4_096
"""Records of finished uploads, which answer the file id until they expire; the oldest go first."""
RESERVED_FOR_S = 3600.0
"""How long after its last request an upload keeps the space for its missing bytes."""
LOCK_WAIT_S = 30.0
NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `<id>.json`. `file_id` and `saga_id` are drawn when the last byte is durable."""

    schema_version: int = SCHEMA_VERSION
    upload_id: str
    account: str
    """The `sub` of the account that may continue it."""
    new: NewFile
    """An empty `filename`: the file is named by its id."""
    metadata: str = ""
    length: int | None
    offset: int = 0
    expires_at: str
    file_id: str | None = None
    saga_id: str | None = None
    committed: bool = False


class Upload:
    """One upload in memory. `size_bytes` is the size of its data, whose end may not be durable."""

    __slots__ = ("appending", "hash", "lock", "record", "reservation", "size_bytes", "used_s")

    def __init__(self, store: Store, record: Record, size_bytes: int) -> None:
        self.record = record
        self.size_bytes = size_bytes
        self.lock = asyncio.Lock()
        """Held by the append or the completion in progress."""
        self.appending: Stoppable | None = None
        self.hash = RunningHash(store.files.paths.upload(record.upload_id))
        self.reservation = store.space.reservation()
        self.used_s = store.clock.monotonic_s()

    @property
    def id(self) -> str:
        return self.record.upload_id

    def state(self) -> UploadState:
        record = self.record
        return UploadState(
            upload_id=record.upload_id,
            owner=record.new.owner,
            offset=record.offset,
            length=record.length,
            expires_at=record.expires_at,
            metadata=record.metadata,
            file_id=record.file_id,
            saga_id=record.saga_id,
            committed=record.committed,
        )


class Uploads:
    """The uploads of one element. Methods that change one hold its lock, or are called by its holder."""

    def __init__(self, store: Store, ttl_s: float) -> None:
        self.store, self._ttl_s = store, ttl_s
        self._by_id: dict[str, Upload] = {}
        self._finished: dict[str, None] = {}
        self._of_account: Counter[str] = Counter()

    @property
    def unfinished(self) -> int:
        return len(self._by_id) - len(self._finished)

    def load(self) -> None:
        """Read what the disk has, at the start. Blocks. A record that cannot be read is a finding and stays."""
        paths, store = self.store.files.paths, self.store
        names = sorted(os.listdir(paths.uploads))
        for name in names:
            if name.endswith(RECORD_SUFFIX) and is_id(name.removesuffix(RECORD_SUFFIX)):
                try:
                    self._load_one(name.removesuffix(RECORD_SUFFIX))
                except (OSError, ValueError, msgspec.MsgspecError) as error:
                    store.findings.damaged += 1
                    log.error("record of an upload cannot be used", name=printable(name), error=str(error))
            elif name.endswith(f"{RECORD_SUFFIX}.new"):
                durable.remove(f"{paths.uploads}/{name}")  # of a record that was being replaced
        for name in names:
            if is_id(name) and f"{name}{RECORD_SUFFIX}" not in names:
                durable.remove(paths.upload(name))

    def _load_one(self, upload_id: str) -> None:
        paths, store = self.store.files.paths, self.store
        with open(paths.upload_record(upload_id), "rb") as file:
            record = msgspec.json.decode(file.read(), type=Record)
        if record.schema_version != SCHEMA_VERSION or record.upload_id != upload_id:
            raise ValueError("it has another schema_version or id")
        parse_rfc3339(record.expires_at)
        data = paths.upload(upload_id)
        if record.committed:
            durable.remove(data)
            self._add(Upload(store, record, 0))
            return
        if not os.path.exists(data):
            durable.remove(paths.upload_record(upload_id))  # the end of a removal was lost
            return
        size_bytes = os.path.getsize(data)
        if size_bytes < record.offset:
            raise ValueError(f"it says {record.offset} bytes, and {size_bytes} are there")
        upload = Upload(store, record, size_bytes)
        self._add(upload)
        store.space.staged_bytes += size_bytes
        with suppress(StorageFull):  # then the next PATCH is refused
            upload.reservation.ensure((record.length or 0) - record.offset)

    async def create(self, account: str, order: NewUpload) -> Upload:
        """Durable when it returns. Raises TooManyUploads, TooLarge, InvalidFields, StorageFull, Unavailable, ElementFailed."""
        store = self.store
        store.disk_health.require_writable()
        if self._of_account[account] >= MAX_PER_ACCOUNT or self.unfinished >= MAX_UNFINISHED:
            raise TooManyUploads(f"{store.element_id} has too many unfinished uploads", limit=MAX_PER_ACCOUNT)
        record = Record(
            upload_id=str(uuid7()),
            account=account,
            new=order.new,
            metadata=order.metadata,
            length=order.length,
            expires_at=self._expiry(),
        )
        if order.length is not None and order.length > store.limits.max_file_bytes:
            raise TooLarge(f"larger than the limit of {store.limits.max_file_bytes} bytes for a file")
        self._check(record)
        upload = Upload(store, record if order.length != 0 else self._with_ids(record), 0)
        upload.reservation.ensure(order.length or 0)
        self._add(upload)
        try:
            await store.in_thread(self._make, upload.record)
        except BaseException as error:
            self._forget(upload)
            if isinstance(error, OSError):
                raise store.disk_health.explain(error) from error
            raise
        return upload

    def find(self, upload_id: str, account: str) -> Upload:
        """Raises NotFound, also for an upload of another account."""
        upload = self._by_id.get(upload_id)
        if upload is None or upload.record.account != account:
            raise NotFound("no upload has this id")
        return upload

    async def quiesce(self, upload: Upload) -> None:
        """End a PATCH in progress, and wait until what it received is durable."""
        if upload.appending is not None:
            upload.appending.stop()
            async with self.hold(upload):
                pass

    def hold(self, upload: Upload) -> UploadHold:
        """`async with`: the upload's lock. Raises UploadLocked."""
        return UploadHold(upload)

    async def settle(self, upload: Upload, saga_id: str, *, committed: bool) -> None:
        """The saga was committed: only the record stays. Or it was given up: the next attempt gets new ids."""
        async with self.hold(upload):
            record = upload.record
            if record.saga_id != saga_id or record.committed:
                return  # a repeat, or another attempt has begun since
            changed = msgspec.structs.replace(record, committed=True) if committed else self._with_ids(record)
            await self._change(upload, changed)
            failpoint("resumable.settled")
            if committed:
                await self._drop_data(upload)
                upload.reservation.release()
                self._leave_account(upload)
                self._finished[upload.id] = None
        if len(self._finished) > MAX_FINISHED:
            await self.remove(self._by_id[next(iter(self._finished))])

    async def remove(self, upload: Upload) -> None:
        """Its bytes and its record; a file that was made of it stays."""
        await self.quiesce(upload)
        async with self.hold(upload):
            await self._remove(upload)

    def release_idle(self) -> None:
        """Give back the space of uploads without a request for RESERVED_FOR_S."""
        idle_since_s = self.store.clock.monotonic_s() - RESERVED_FOR_S
        for upload in self._by_id.values():
            if upload.used_s < idle_since_s and not upload.lock.locked():
                upload.reservation.release()

    def is_any_due(self, now: datetime) -> bool:
        return any(parse_rfc3339(upload.record.expires_at) <= now for upload in self._by_id.values())

    async def expire(self, now: datetime) -> None:
        """One round. `now` is the earlier of two clocks (`Rows.agreed_now`)."""
        for upload in list(self._by_id.values()):
            if upload.lock.locked() or upload.id not in self._by_id or self.store.disk_health.failure is not None:
                continue
            if parse_rfc3339(upload.record.expires_at) <= now:
                async with self.hold(upload):
                    await self._remove(upload)
                log.info("upload expired", upload_id=upload.id, offset=upload.record.offset)

    def advanced(self, record: Record, offset: int, length: int | None) -> Record:
        """The record once the bytes up to `offset` are durable."""
        record = msgspec.structs.replace(record, offset=offset, length=length, expires_at=self._expiry())
        return self._with_ids(record) if offset == length and record.file_id is None else record

    def write(self, record: Record) -> None:
        """Durable when it returns. Blocks."""
        encoded = orjson.dumps(msgspec.to_builtins(record), option=orjson.OPT_SORT_KEYS)
        durable.replace_file(self.store.files.paths.upload_record(record.upload_id), encoded)

    def resize(self, upload: Upload, size_bytes: int) -> None:
        """The data has this size now."""
        self.store.space.staged_bytes += size_bytes - upload.size_bytes
        upload.size_bytes = size_bytes

    def _make(self, record: Record) -> None:
        """The data, empty, then the record. The link that a completion needs is tried before any byte is taken."""
        paths, temps = self.store.files.paths, self.store.files.temps
        data, tried = paths.upload(record.upload_id), temps.data(f"{record.upload_id}.link")
        os.close(durable.create(data))
        try:
            durable.link(data, tried)
            durable.remove(tried)
            failpoint("resumable.made")
            self.write(record)
        except OSError as error:
            with suppress(OSError):  # what stays goes at the next start
                for path in (tried, data, f"{paths.upload_record(record.upload_id)}.new"):
                    durable.remove(path)
            if error.errno in NO_LINKS:
                name = self.store.element_id
                raise Unavailable(
                    f"the disk of {name} has no hard links, which resumable uploads need", away="links"
                ) from error
            raise
        failpoint("resumable.created")

    def _with_ids(self, record: Record) -> Record:
        file_id = str(uuid7())
        return msgspec.structs.replace(record, file_id=file_id, saga_id=str(uuid7()))

    def _check(self, record: Record) -> None:
        """The attr.json must have room for the attributes before a hundred gigabytes are sent. Raises InvalidFields."""
        new = named(record.new, record.upload_id)
        check_new_file(new)
        now, size = self.store.now(), MAX_SIZE_BYTES
        element_id = self.store.element_id
        encode(first_revision(record.upload_id, new, size_bytes=size, sha256="0" * 64, element_id=element_id, now=now))

    def _expiry(self) -> str:
        return rfc3339(self.store.clock.now() + timedelta(seconds=self._ttl_s))

    async def _change(self, upload: Upload, record: Record) -> None:
        self.store.disk_health.require_writable()
        try:
            await self.store.in_thread(self.write, record)
        except OSError as error:
            raise self.store.disk_health.explain(error) from error
        upload.record = record

    async def _drop_data(self, upload: Upload) -> None:
        """After the record that makes it worthless. A failure leaves it to the next start."""
        try:
            await self.store.in_thread(durable.remove, self.store.files.paths.upload(upload.id))
        except OSError as error:
            log.warning("data of an upload not removed", upload_id=upload.id, error=str(error))
        self.resize(upload, 0)

    async def _remove(self, upload: Upload) -> None:
        if upload.id not in self._by_id:
            raise NotFound("no upload has this id")
        self.store.disk_health.require_writable()
        try:
            await self.store.in_thread(durable.remove, self.store.files.paths.upload_record(upload.id))
            failpoint("resumable.record_removed")
            await self.store.in_thread(durable.sync_path, self.store.files.paths.uploads)
        except OSError as error:
            raise self.store.disk_health.explain(error) from error
        self._forget(upload)
        await self._drop_data(upload)

    def _add(self, upload: Upload) -> None:
        self._by_id[upload.id] = upload
        if upload.record.committed:
            self._finished[upload.id] = None
        else:
            self._of_account[upload.record.account] += 1

    def _forget(self, upload: Upload) -> None:
        upload.reservation.release()
        del self._by_id[upload.id]
        if upload.id in self._finished:
            del self._finished[upload.id]
        else:
            self._leave_account(upload)

    def _leave_account(self, upload: Upload) -> None:
        account = upload.record.account
        self._of_account[account] -= 1
        if not self._of_account[account]:
            del self._of_account[account]


class UploadHold:
    def __init__(self, upload: Upload) -> None:
        self._upload = upload

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(LOCK_WAIT_S):
                await self._upload.lock.acquire()
        except TimeoutError as error:
            raise UploadLocked("another request works on this upload") from error

    async def __aexit__(self, *_: object) -> None:
        self._upload.lock.release()


def named(new: NewFile, file_id: str) -> NewFile:
    """A file without a name is named by its id."""
    return new if new.filename else msgspec.structs.replace(new, filename=file_id)
