"""Messages about sagas between the ingester and admin. Every call is idempotent by saga id."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from artstore.contracts.files import Changes

MAX_GROUP = 256
"""Sagas in one begin, commit or abort request."""
MAX_BATCH_FILES = 1000
"""Files of one batch, which are committed together."""


class SagaKind(enum.StrEnum):
    """`sagas.kind` in the database."""

    UPLOAD = "upload"
    UPDATE = "update"
    DELETE = "delete"
    MODE = "mode"
    MOVE = "move"
    """Makes a temporary file permanent: from an `edit` to an `rw` element."""


class UploadSaga(msgspec.Struct, frozen=True, kw_only=True):
    """One upload. Repeating the begin with the same `saga_id` renews its lease."""

    saga_id: str
    file_id: str
    storage_element_id: str
    owner: str


class BeginUploads(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/sagas/uploads."""

    sagas: list[UploadSaga]


class UploadCommit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Carries all that the commit needs, so a begin that was lost in a crash of the database is repaired
    here.

    `attributes` is attr.json as the element answered it. `keyed` means that the upload has an
    Idempotency-Key, whose row must name this saga and gets the answer in the same transaction.
    """

    saga_id: str
    attributes: msgspec.Raw
    keyed: bool = False


class CommitUploads(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/sagas/commit."""

    sagas: list[UploadCommit]


class BatchKey(msgspec.Struct, frozen=True, kw_only=True):
    """The Idempotency-Key of a batch: its row must name `saga_id`, and gets `answer`, the body of the 200."""

    saga_id: str
    answer: msgspec.Raw


class CommitBatch(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/sagas/commit-batch: all of these uploads in one transaction, or none of them."""

    sagas: list[UploadCommit]
    key: BatchKey | None = None


class AbortUploads(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/sagas/abort. The compensation may continue after the answer."""

    sagas: list[UploadSaga]
    reason: str


class SagaResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one saga, in the order of the request. `problem` is a problem document if this saga was
    refused."""

    saga_id: str
    state: str
    problem: dict[str, Any] | None = None
    lease_s: float | msgspec.UnsetType = msgspec.UNSET
    """For a begin: the saga is undone unless it is renewed or committed within this time."""


class SagaResults(msgspec.Struct, frozen=True, kw_only=True):
    results: list[SagaResult]


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to POST /api/sagas/claims, whose body is an UploadSaga under an id that the client made. A repeat renews
    the lease."""

    lease_s: float


class AbortClaim(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/sagas/claims/abort. POST /api/sagas/claims/commit takes an UploadCommit."""

    saga: UploadSaga
    reason: str


class QueueChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /api/sagas/changes: admin applies this change of a file when its element is available again.
    Answered 202 with the saga.

    Changes of a file are applied in the order they were queued. `if_revisions` is the client's condition: the
    file must have one of these revisions. `keyed` is as in UploadCommit; the stored answer is the 202.
    """

    saga_id: str
    kind: SagaKind
    """update, delete or move"""
    file_id: str
    storage_element_id: str
    owner: str
    account: str = ""
    """The id of the owner's account, for the audit log."""
    changes: Changes | None = None
    """For an update."""
    targets: list[str] | None = None
    """For a move: the elements that may take the file, best first."""
    if_revisions: list[int] | None = None
    keyed: bool = False
