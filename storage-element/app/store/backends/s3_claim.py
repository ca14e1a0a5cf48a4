"""Whose prefix it is: one element with one root. Written in the bucket (`owner.json`) and on the root (`s3.json`).

Two elements on one prefix would sweep each other's uploads, and a second root knows nothing of the first one's log. So a
prefix is claimed once, by a create that S3 refuses to the second; another root takes it over only by an operator's hand, and
the one that had it finds out at its next look and writes no more.
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
from .s3 import S3Backend, asked, open_objects

Kind = TypeVar("Kind")

OWNER_KEY = "owner.json"
ANSWER_TIMEOUT_S = 3.0
MISSED_CHECKS = 2
"""In a row, after which S3 is taken to be away."""


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    element_id: str
    root_id: str
    schema_version: int = 1


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """`s3.json`: which bucket and prefix the log of this root speaks of."""

    bucket: str
    prefix: str
    root_id: str
    schema_version: int = 1


class Claim:
    """Blocks; called from threads."""

    def __init__(self, backend: S3Backend, paths: Paths, element_id: str, *, take_over: bool) -> None:
        """Raises RootRefused when the root belongs to another bucket or prefix."""
        self._backend = backend
        self._take_over = take_over
        self._missed = 0
        # Asked every few seconds, so with little patience: S3 being away must not fill the store's threads.
        self._objects = open_objects(replace(backend.settings, timeout_s=ANSWER_TIMEOUT_S, retries=0))
        identity = find_identity(paths)
        root_id = identity.root_id if identity is not None else ""
        binding = bind(paths, backend.settings.bucket, backend.settings.prefix, root_id)
        self._mine = Owner(element_id=element_id, root_id=binding.root_id)

    def make(self) -> None:
        """At the start. Makes the bucket and the claim where there are none. Raises RootRefused, Unavailable."""
        self._backend.uploads.require_bucket()
        owner = self._find() or self._create()
        if owner.element_id != self._mine.element_id:
            raise RootRefused(f"{self._place()} belongs to the element {owner.element_id}")
        if owner != self._mine:
            if not self._take_over:
                raise RootRefused(
                    f"{self._place()} is written from another STORAGE_ROOT, which has the log of it; if that one is lost,"
                    " start once with S3_TAKE_OVER=true and rebuild"
                )
            asked(lambda: obstore.put(self._objects, OWNER_KEY, msgspec.json.encode(self._mine)))
        self._backend.claimed = True

    def check(self, disk_health: DiskHealth) -> None:
        """While running, again and again. Raises Unavailable; a prefix that is another root's makes the element read-only."""
        try:
            self._look(disk_health)
        except Unavailable:
            self._missed += 1
            self._backend.away = self._missed >= MISSED_CHECKS
            raise
        self._missed, self._backend.away = 0, False

    def _look(self, disk_health: DiskHealth) -> None:
        if not self._backend.claimed:
            try:
                self.make()
            except RootRefused as error:
                raise disk_health.fail(str(error)) from error
        elif self._find() != self._mine:
            raise disk_health.fail(f"{self._place()} was taken over by another root, or emptied")

    def _find(self) -> Owner | None:
        try:
            encoded = asked(lambda: bytes(obstore.get(self._objects, OWNER_KEY).bytes()))
        except FileNotFoundError:
            return None
        return _decoded(encoded, Owner, OWNER_KEY)

    def _create(self) -> Owner:
        def create() -> Owner | None:
            try:
                obstore.put(self._objects, OWNER_KEY, msgspec.json.encode(self._mine), mode="create")
            except AlreadyExistsError:
                return self._find()  # another one was faster, or the answer to our own create was lost
            return self._mine

        return asked(create) or self._mine

    def _place(self) -> str:
        return f"s3://{self._backend.settings.bucket}/{self._backend.settings.prefix}"


def require_backend(paths: Paths, *, s3: bool) -> None:
    """A root is of one kind for ever: the other backend would not see its files. Raises RootRefused."""
    bound = os.path.exists(_binding_path(paths))
    if bound and not s3:
        raise RootRefused(f"the files of {paths.root} lie in a bucket (s3.json): STORAGE_BACKEND is s3")
    if s3 and not bound and any(_holds_files(f"{paths.files}/{first}") for first in FAN_OUT):
        raise RootRefused(f"{paths.root} holds files of its own: STORAGE_BACKEND=s3 needs another STORAGE_ROOT")


def find_bound_root_id(paths: Paths) -> str | None:
    """The id under which this root has claimed its prefix, made before roots had ids in element.json. Raises RootRefused."""
    try:
        with open(_binding_path(paths), "rb") as file:
            return _decoded(file.read(), Binding, _binding_path(paths)).root_id
    except FileNotFoundError:
        return None


def bind(paths: Paths, bucket: str, prefix: str, root_id: str) -> Binding:
    """The root's binding, made durably at its first start; it and the registry know the root by one id. Raises RootRefused."""
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


def _decoded(encoded: bytes, kind: type[Kind], where: str) -> Kind:
    try:
        return msgspec.json.decode(encoded, type=kind)
    except msgspec.MsgspecError as error:
        raise RootRefused(f"{where} cannot be read: {error}") from error
