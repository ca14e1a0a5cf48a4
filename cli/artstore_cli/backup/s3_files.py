"""The files of an element in S3: read for a backup, and put back by a restore.

The prefix is known by `s3.json` in the element's root, and belongs to the element whose root `owner.json` in it names.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from artstore.contracts.files import decode, is_id

from ..errors import CommandError
from .files import ATTRIBUTES, FIRST_FOLDERS, PIECE_BYTES, Deleted

BINDING, OWNER = "s3.json", "owner.json"
LIST_PAGE = 1000
PART_BYTES = 8 << 20
MAX_PARTS = 10_000
"""Limit of S3 for one multipart upload."""
TIMEOUT_S = 60

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class S3Access:
    endpoint_url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = "us-east-1"


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """s3.json: where the files of this root are."""

    bucket: str
    prefix: str
    root_id: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """owner.json: the element, and the root, that write to the prefix."""

    element_id: str
    root_id: str
    schema_version: int = 1


def read_binding(root: Path) -> Binding:
    """Raises CommandError."""
    try:
        return msgspec.json.decode((root / BINDING).read_bytes(), type=Binding)
    except (OSError, msgspec.MsgspecError) as error:
        raise CommandError(f"{root / BINDING} cannot be read: {error}") from None


class NoBucket(CommandError):
    """The bucket does not exist."""


class S3Files:
    """Every call raises CommandError when S3 does not answer as it should, so that the whole backup or restore fails."""

    threads = 16

    def __init__(self, access: S3Access, binding: Binding) -> None:
        self._binding, self._access = binding, access
        self._store = self._open(binding.prefix)

    def _open(self, prefix: str | None) -> S3Store:
        access = self._access
        return S3Store(
            self._binding.bucket,
            prefix=prefix,
            endpoint=access.endpoint_url,
            access_key_id=access.access_key_id,
            secret_access_key=access.secret_access_key,
            region=access.region,
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": access.endpoint_url.startswith("http://"),
                "timeout": timedelta(seconds=TIMEOUT_S),
            },
        )

    def require_owner(self, element_id: str) -> None:
        """An emptied or foreign prefix must not become a backup without files. Raises CommandError."""
        owner = self.find_owner()
        if owner is None:
            raise CommandError(f"{self._binding.url} has no {OWNER}: was it emptied?")
        if owner != Owner(element_id=element_id, root_id=self._binding.root_id):
            raise CommandError(f"{self._binding.url} is written by {owner.element_id} from another root")

    def find_owner(self) -> Owner | None:
        content = self._find(OWNER)
        try:
            return None if content is None else msgspec.json.decode(content, type=Owner)
        except msgspec.MsgspecError as error:
            raise CommandError(f"{self._binding.url}/{OWNER} cannot be read: {error}") from None

    def make_bucket(self) -> None:
        """By a signed URL: obstore itself knows objects only."""
        url = obstore.sign(self._open(None), "PUT", "", timedelta(seconds=TIMEOUT_S))
        try:
            answer = httpx.put(url, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            raise CommandError(f"S3 does not answer: {error}") from None
        if answer.status_code != httpx.codes.OK:
            raise CommandError(f"the bucket {self._binding.bucket} cannot be created: {answer.text[:200]}")

    def put_owner(self, owner: Owner) -> None:
        self._call(lambda: obstore.put(self._store, OWNER, msgspec.json.encode(owner)))

    def units(self) -> Iterable[str]:
        return [f"files/{first}" for first in FIRST_FOLDERS]

    def paths_in(self, unit: str) -> list[str]:
        found: list[str] = []
        pages = self._call(lambda: obstore.list(self._store, unit, chunk_size=LIST_PAGE))
        while page := self._call(lambda: next(pages, None)):
            for meta in page:
                path = meta["path"].removesuffix(ATTRIBUTES)
                file_id = posixpath.basename(path)
                if path != meta["path"] and is_id(file_id) and path == f"{unit}/{file_id[-2:]}/{file_id}":
                    found.append(path)
        return found

    def read_attributes(self, path: str) -> bytes:
        content = self._find(path + ATTRIBUTES)
        if content is None:
            raise Deleted
        return content

    def read(self, path: str) -> Iterator[bytes]:
        try:
            pieces = iter(self._call(lambda: obstore.get(self._store, path)).stream(min_chunk_size=PIECE_BYTES))
            while piece := self._call(lambda: next(pieces, None)):
                yield bytes(piece)
        except FileNotFoundError:
            raise Deleted from None

    def put_back(self, path: str, source: Path) -> bool:
        """Put the file `source`, with its attr.json beside it, unless the prefix has it in this or a higher revision.

        Data first, attr.json last, as the store does.
        """
        encoded = source.with_name(source.name + ATTRIBUTES).read_bytes()
        size_bytes = source.stat().st_size
        present = self._find(path + ATTRIBUTES)
        if present is not None and self._is_current(path, present, decode(encoded).revision):
            return False
        part_bytes = max(PART_BYTES, -(-size_bytes // MAX_PARTS))
        with source.open("rb") as file:
            self._call(
                lambda: obstore.put(
                    self._store, path, file, use_multipart=size_bytes > part_bytes, chunk_size=part_bytes
                )
            )
        self._call(lambda: obstore.put(self._store, path + ATTRIBUTES, encoded))
        return True

    def _is_current(self, path: str, present: bytes, revision: int) -> bool:
        """False for a lower revision, a damaged attr.json, or one whose data is missing."""
        try:
            attributes = decode(present)
        except (ValueError, msgspec.MsgspecError):
            return False
        if attributes.revision < revision:
            return False
        try:
            size_bytes = self._call(lambda: obstore.head(self._store, path))["size"]
        except FileNotFoundError:
            return attributes.revision > revision
        return attributes.revision > revision or size_bytes == attributes.size_bytes

    def _find(self, key: str) -> bytes | None:
        try:
            return self._call(lambda: bytes(obstore.get(self._store, key).bytes()))
        except FileNotFoundError:
            return None

    def _call(self, call: Callable[[], Result]) -> Result:
        """Raises FileNotFoundError only where the object is missing, not the bucket."""
        try:
            return call()
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise NoBucket(f"the bucket {self._binding.bucket} does not exist") from None
            raise
        except BaseError as error:
            reason = str(error).partition("\n")[0][:200]
            raise CommandError(f"{self._binding.url}: S3 did not answer as it should: {reason}") from None
