"""The claim of a prefix by one element with one root, stored in the bucket (`owner.json`) and on the root
(`s3.json`).

Two elements on one prefix would remove each other's uploads, and a second root does not know the log of the
first. So a prefix is claimed once, by a conditional create that S3 refuses to the second claimant. Another
root takes it over only on an operator's request; the former owner detects that at its next check and becomes
read-only.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TypeVar

import msgspec
import obstore
from obstore.exceptions import AlreadyExistsError

from artstore.errors import Unavailable

from .. import durable
from ..disk_health import DiskHealth
from ..identity import RootRefused, find_identity, new_root_id
from ..paths import FAN_OUT, Paths
from .s3 import S3Backend
from .s3_objects import open_objects, translated

Kind = TypeVar("Kind")

OWNER_KEY = "owner.json"
ANSWER_TIMEOUT_S = 3.0
MISSED_CHECKS = 2
"""In a row, after which calls to S3 fail at once."""


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    element_id: str
    root_id: str
    schema_version: int = 1


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """`s3.json`: the bucket and prefix that the log of this root belongs to."""

    bucket: str
    prefix: str
    root_id: str
    schema_version: int = 1


class Claim:
    """All methods block: call them in a thread."""

    def __init__(self, backend: S3Backend, paths: Paths, element_id: str, *, take_over: bool) -> None:
        """Raises RootRefused when the root belongs to another bucket or prefix."""
        self._objects, settings = backend.objects, backend.objects.settings
        self._take_over = take_over
        self._missed = 0
        # Checked every few seconds, so with a short timeout: an unavailable S3 must not occupy the store's
        # threads.
        self._store = open_objects(replace(settings, timeout_s=ANSWER_TIMEOUT_S, retries=0))
        identity = find_identity(paths)
        root_id = identity.root_id if identity is not None else ""
        binding = bind(paths, settings.bucket, settings.prefix, root_id)
        self._mine = Owner(element_id=element_id, root_id=binding.root_id)

    def make(self) -> None:
        """At the start: create bucket and claim where they do not exist. Raises RootRefused, Unavailable."""
        self._objects.uploads.require_bucket()
        owner = self._find() or self._create()
        if owner.element_id != self._mine.element_id:
            raise RootRefused(f"{self._place()} belongs to the element {owner.element_id}")
        if owner != self._mine:
            if not self._take_over:
                raise RootRefused(
                    f"{self._place()} is written from another STORAGE_ROOT, which has its log; if that root is lost,"
                    " start once with S3_TAKE_OVER=true and rebuild"
                )
            translated(lambda: obstore.put(self._store, OWNER_KEY, msgspec.json.encode(self._mine)))
        self._objects.claimed = True

    def check(self, disk_health: DiskHealth) -> None:
        """Periodically. Raises Unavailable; a prefix that another root has taken over makes the element
        read-only."""
        try:
            self._check(disk_health)
        except Unavailable:
            self._missed += 1
            self._objects.away = self._missed >= MISSED_CHECKS
            raise
        self._missed, self._objects.away = 0, False

    def _check(self, disk_health: DiskHealth) -> None:
        if not self._objects.claimed:
            try:
                self.make()
            except RootRefused as error:
                raise disk_health.fail(str(error)) from error
        elif self._find() != self._mine:
            raise disk_health.fail(f"{self._place()} was taken over by another root, or emptied")

    def _find(self) -> Owner | None:
        try:
            encoded = translated(lambda: bytes(obstore.get(self._store, OWNER_KEY).bytes()))
        except FileNotFoundError:
            return None
        return _decoded(encoded, Owner, OWNER_KEY)

    def _create(self) -> Owner:
        def create() -> Owner | None:
            try:
                obstore.put(self._store, OWNER_KEY, msgspec.json.encode(self._mine), mode="create")
            except AlreadyExistsError:
                return self._find()  # another root was faster, or the answer to this create was lost
            return self._mine

        return translated(create) or self._mine

    def _place(self) -> str:
        return f"s3://{self._objects.settings.bucket}/{self._objects.settings.prefix}"


def require_backend(paths: Paths, *, s3: bool) -> None:
    """A root keeps its backend: the other one would not see its files. Raises RootRefused."""
    bound = os.path.exists(_binding_path(paths))
    if bound and not s3:
        raise RootRefused(f"the files of {paths.root} are in a bucket (s3.json): set STORAGE_BACKEND=s3")
    if s3 and not bound and any(_holds_files(f"{paths.files}/{first}") for first in FAN_OUT):
        raise RootRefused(f"{paths.root} holds local files: STORAGE_BACKEND=s3 needs another STORAGE_ROOT")


def find_bound_root_id(paths: Paths) -> str | None:
    """The root id of the claim, for roots older than the ids in element.json. Raises RootRefused."""
    try:
        with open(_binding_path(paths), "rb") as file:
            return _decoded(file.read(), Binding, _binding_path(paths)).root_id
    except FileNotFoundError:
        return None


def bind(paths: Paths, bucket: str, prefix: str, root_id: str) -> Binding:
    """The binding of the root, created durably at its first start with the root id of the registry. Raises
    RootRefused."""
    path = _binding_path(paths)
    if not os.path.exists(path):
        binding = Binding(bucket=bucket, prefix=prefix, root_id=root_id or new_root_id())
        durable.replace_file(path, msgspec.json.encode(binding))
        return binding
    with open(path, "rb") as file:
        binding = _decoded(file.read(), Binding, path)
    if (binding.bucket, binding.prefix) != (bucket, prefix):
        raise RootRefused(f"this STORAGE_ROOT belongs to s3://{binding.bucket}/{binding.prefix}")
    return binding


def _binding_path(paths: Paths) -> str:
    return f"{paths.root}/s3.json"


def _holds_files(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is not None


def _decoded(encoded: bytes, kind: type[Kind], name: str) -> Kind:
    try:
        return msgspec.json.decode(encoded, type=kind)
    except msgspec.MsgspecError as error:
        raise RootRefused(f"{name} cannot be read: {error}") from error
