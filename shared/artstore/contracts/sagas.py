"""What the ingester and admin say to each other about sagas. Every call is idempotent by saga id."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from artstore.contracts.files import Changes

MAX_GROUP = 256
"""Sagas in one begin, commit or abort request."""


class SagaKind(enum.StrEnum):
    """`sagas.kind` in the database."""

    UPLOAD = "upload"
    UPDATE = "update"
    DELETE = "delete"
    MODE = "mode"


class UploadSaga(msgspec.Struct, frozen=True, kw_only=True):
    """Begin of one upload. The lease is renewed by a repeated begin with the same `saga_id`."""

    saga_id: str
    file_id: str
    storage_element_id: str
    owner: str


class BeginUploads(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/sagas/uploads."""

    sagas: list[UploadSaga]


class UploadCommit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Carries all that commit needs, so that a begin lost in a database crash is made good here.

    `attributes` is the record as the element answered it: the content of attr.json. `keyed`: the upload came with an
    Idempotency-Key, whose row must name this saga, and is given the answer in the same transaction.
    """

    saga_id: str
    attributes: dict[str, Any]
    keyed: bool = False


class CommitUploads(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/sagas/commit."""

    sagas: list[UploadCommit]


class AbortUploads(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/sagas/abort. The compensation may go on after the answer."""

    sagas: list[UploadSaga]
    reason: str


class SagaResult(msgspec.Struct, frozen=True, kw_only=True):
    """One per saga asked for, in the same order. `problem` is a problem document when this saga was refused."""

    saga_id: str
    state: str
    problem: dict[str, Any] | None = None
    lease_s: float | msgspec.UnsetType = msgspec.UNSET
    """Of a begin: the saga is undone when it is neither renewed nor committed for so long."""


class SagaResults(msgspec.Struct, frozen=True, kw_only=True):
    results: list[SagaResult]


class QueueChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /api/sagas/changes: admin makes this change of a file when its element is back. Answered 202 with the saga.

    Made after those queued before it. `if_revisions` is the client's condition: the file must be at one of them. `keyed`: as
    of an upload's commit; the answer is the 202.
    """

    saga_id: str
    kind: SagaKind
    """update or delete"""
    file_id: str
    storage_element_id: str
    owner: str
    changes: Changes | None = None
    """Of an update."""
    if_revisions: list[int] | None = None
    keyed: bool = False
