"""What a crash, a lost root or a request that S3 did late has left in the bucket: found, and swept after a grace period.

The grace covers what other hands may still be doing; before anything is removed it is looked at again under the file's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from ..paths import ATTRIBUTES_SUFFIX, check_file_id
from ..store import Store
from .s3 import S3Backend, attributes_key, data_key, quarantine_key

if TYPE_CHECKING:
    from obstore import ObjectMeta


@dataclass(slots=True)
class Swept:
    data_objects: int = 0
    """Bytes without an attr.json: a put that never came to its commit point."""
    uploads: int = 0
    """Multipart uploads nobody completes any more."""
    quarantined: int = 0
    """An attr.json without its bytes: S3 did a put's last request after the put was undone."""


async def sweep_orphans(store: Store, backend: S3Backend, grace_s: float) -> Swept:
    """One round over the whole prefix. Raises Unavailable; what was swept by then is swept."""
    swept = Swept()
    before = store.clock.now() - timedelta(seconds=grace_s)
    for orphan in await store.in_thread(lambda: list(_orphans(backend, before))):
        async with store.locks.hold(orphan.file_id):
            if orphan.file_id not in store.owed and await store.in_thread(_sweep, backend, orphan, before):
                swept.data_objects += orphan.is_data
                swept.quarantined += not orphan.is_data
    swept.uploads = await store.in_thread(partial(_abort_uploads, store, backend, before))
    return swept


@dataclass(frozen=True, slots=True)
class Orphan:
    file_id: str
    is_data: bool


def _orphans(backend: S3Backend, before: datetime) -> Iterator[Orphan]:
    """Keys come in order, so a file's data is followed at once by its attr.json."""
    data: ObjectMeta | None = None
    for meta in backend.list_objects("files/"):
        path = meta["path"]
        is_attributes = path.endswith(ATTRIBUTES_SUFFIX)
        whole = is_attributes and data is not None and data["path"] + ATTRIBUTES_SUFFIX == path
        if data is not None and not whole and data["last_modified"] < before:
            yield Orphan(_file_id(data["path"]), is_data=True)
        if is_attributes and not whole and meta["last_modified"] < before:
            yield Orphan(_file_id(path.removesuffix(ATTRIBUTES_SUFFIX)), is_data=False)
        data = None if is_attributes else meta
    if data is not None and data["last_modified"] < before:
        yield Orphan(_file_id(data["path"]), is_data=True)


def _file_id(path: str) -> str:
    return check_file_id(path.rpartition("/")[2])


def _sweep(backend: S3Backend, orphan: Orphan, before: datetime) -> bool:
    """Nobody changes the file now: look again, then act. False when it is no orphan any more."""
    data = backend.find_meta(data_key(orphan.file_id))
    attributes = backend.find_meta(attributes_key(orphan.file_id))
    if not orphan.is_data:
        if data is not None or attributes is None:
            return False
        backend.quarantine(orphan.file_id)
        return True
    if data is None or attributes is not None or data["last_modified"] >= before:
        return False
    if backend.find_meta(quarantine_key(orphan.file_id)) is not None:
        return False  # its attr.json was put aside; a person decides about the bytes
    backend.remove(orphan.file_id)
    return True


def _abort_uploads(store: Store, backend: S3Backend, before: datetime) -> int:
    aborted = 0
    for upload in backend.unfinished_uploads():
        if upload.begun_at < before and upload.key.rpartition("/")[2] not in store.running:
            backend.uploads.abort(upload)
            aborted += 1
    return aborted
