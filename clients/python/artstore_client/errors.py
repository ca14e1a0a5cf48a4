"""Every error a caller can meet: one class for each `code` of the API, and those that the client itself raises.

    try:
        await store.update(file_id, revision=3, tags=["paid"])
    except artstore_client.RevisionMismatch:
        ...                      # read the file again, merge, repeat
    except artstore_client.ArtStoreError as error:
        print(error.code, error.detail, error.request_id)

Only `OSError` of a local file and `ValueError` of a wrong argument are raised besides these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "ArtStoreError",
    "BadGateway",
    "ChecksumMismatch",
    "Conflict",
    "ConnectionFailed",
    "ContentChanged",
    "ContentDamaged",
    "CursorExpired",
    "DigestMismatch",
    "ElementFailed",
    "ExpectationFailed",
    "FileDamaged",
    "Forbidden",
    "IdempotencyKeyInUse",
    "IdempotencyKeyReused",
    "InternalError",
    "InvalidAnswer",
    "InvalidFields",
    "InvalidScope",
    "LengthRequired",
    "LinkRefused",
    "Malformed",
    "MethodNotAllowed",
    "ModeForbids",
    "NotFound",
    "NotImplementedByServer",
    "Overloaded",
    "PreconditionRequired",
    "Quarantined",
    "RangeNotSatisfiable",
    "RateLimited",
    "RevisionMismatch",
    "SearchTooSlow",
    "StillQueued",
    "StorageFull",
    "TooLarge",
    "TooManyHeaders",
    "TooManyUploads",
    "TooSlow",
    "TusVersion",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedHeader",
    "UnsupportedMediaType",
    "UnsupportedVersion",
    "UploadLocked",
    "UriTooLong",
]

_MEMBERS = frozenset({"type", "title", "status", "detail", "code", "request_id"})


class ArtStoreError(Exception):
    """Base of all errors, and the error itself when the service answers with a code that this version does not know.

    `status` is the HTTP status, 0 when there was no answer. `retry_after` is in seconds, None when the service does
    not say. `fields` holds the further members of the problem document (RFC 9457), such as `fields` or `away`.
    """

    default_code: ClassVar[str] = ""
    upload_url: str = ""
    """Set when a resumable upload failed: `upload(…, upload_url=error.upload_url)` continues it."""

    def __init__(
        self,
        detail: str,
        *,
        status: int = 0,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        self.status = status
        self.code = code or self.default_code
        self.detail = detail
        self.request_id = request_id
        self.retry_after = retry_after
        self.fields: Mapping[str, Any] = dict(fields or {})
        super().__init__(detail)

    def __str__(self) -> str:
        status = f"{self.status} " if self.status else ""
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{status}{self.code}: {self.detail}{request}"


class Malformed(ArtStoreError):
    """400: the request cannot be read."""

    default_code = "malformed"


class UnsupportedHeader(ArtStoreError):
    """400: a header that this endpoint cannot honour."""

    default_code = "unsupported_header"


class DigestMismatch(ArtStoreError):
    """400: the bytes that arrived do not match the stated digest. Nothing was stored."""

    default_code = "digest_mismatch"


class InvalidScope(ArtStoreError):
    """400: the account lacks a permission that the token request asks for."""

    default_code = "invalid_scope"


class Unauthenticated(ArtStoreError):
    """401: client id and secret are wrong, or the token is not valid and could not be renewed."""

    default_code = "unauthenticated"


class Forbidden(ArtStoreError):
    """403: the account lacks a permission."""

    default_code = "forbidden"


class LinkRefused(ArtStoreError):
    """403: a signed link has expired or was revoked."""

    default_code = "link_refused"


class NotFound(ArtStoreError):
    """404: there is no such file, account, element or saga."""

    default_code = "not_found"


class MethodNotAllowed(ArtStoreError):
    """405: the resource does not support the method."""

    default_code = "method_not_allowed"


class TooSlow(ArtStoreError):
    """408: the upload stalled, or was slower than the minimum rate."""

    default_code = "too_slow"


class Conflict(ArtStoreError):
    """409: the request contradicts the current state."""

    default_code = "conflict"


class ModeForbids(ArtStoreError):
    """409: the mode of the file's element does not allow the change."""

    default_code = "mode_forbids"


class IdempotencyKeyInUse(ArtStoreError):
    """409: the first request with this key is still running."""

    default_code = "idempotency_key_in_use"


class Quarantined(ArtStoreError):
    """410: the stored file is damaged."""

    default_code = "quarantined"


class CursorExpired(ArtStoreError):
    """410: changes after the cursor are no longer kept. List the files, then follow the changes without `since`."""

    default_code = "cursor_expired"


class LengthRequired(ArtStoreError):
    """411: the request states no length."""

    default_code = "length_required"


class RevisionMismatch(ArtStoreError):
    """412: the file has another revision than the caller stated, or exists already."""

    default_code = "revision_mismatch"


class TusVersion(ArtStoreError):
    """412: the service does not speak this version of tus."""

    default_code = "tus_version"


class TooLarge(ArtStoreError):
    """413: the file or the request exceeds a limit."""

    default_code = "too_large"


class UriTooLong(ArtStoreError):
    """414: the search has too many or too long parameters."""

    default_code = "uri_too_long"


class UnsupportedMediaType(ArtStoreError):
    """415: content of this type or encoding is not accepted."""

    default_code = "unsupported_media_type"


class RangeNotSatisfiable(ArtStoreError):
    """416: the range starts after the end of the file."""

    default_code = "range_not_satisfiable"


class ExpectationFailed(ArtStoreError):
    """417: an unknown `Expect` header."""

    default_code = "expectation_failed"


class InvalidFields(ArtStoreError):
    """422: values are not allowed. `fields["fields"]` names them."""

    default_code = "invalid_fields"


class IdempotencyKeyReused(ArtStoreError):
    """422: the key belongs to another request."""

    default_code = "idempotency_key_reused"


class UploadLocked(ArtStoreError):
    """423: another request sends bytes to this resumable upload."""

    default_code = "upload_locked"


class PreconditionRequired(ArtStoreError):
    """428: the request needs a condition."""

    default_code = "precondition_required"


class RateLimited(ArtStoreError):
    """429: too many requests, logins or transfers. `retry_after` says when to continue."""

    default_code = "rate_limited"


class TooManyUploads(ArtStoreError):
    """429: too many unfinished resumable uploads."""

    default_code = "too_many_uploads"


class TooManyHeaders(ArtStoreError):
    """431: the header fields are too large."""

    default_code = "too_many_headers"


class ChecksumMismatch(ArtStoreError):
    """460: a part of a resumable upload arrived damaged, repeatedly."""

    default_code = "checksum_mismatch"


class InternalError(ArtStoreError):
    """500: a defect of the service. `request_id` finds it in the logs."""

    default_code = "internal_error"


class FileDamaged(ArtStoreError):
    """500: the file cannot be read as it was stored."""

    default_code = "file_damaged"


class NotImplementedByServer(ArtStoreError):
    """501: a part of HTTP that the service does not implement."""

    default_code = "not_implemented"


class BadGateway(ArtStoreError):
    """502: a service behind the one asked gave an invalid answer."""

    default_code = "bad_gateway"


class Unavailable(ArtStoreError):
    """503: a part of the system is away; `fields["away"]` or `fields["elements"]` names it."""

    default_code = "unavailable"


class Overloaded(ArtStoreError):
    """503: too many requests are open."""

    default_code = "overloaded"


class ElementFailed(ArtStoreError):
    """503: the disk of a storage element failed."""

    default_code = "element_failed"


class SearchTooSlow(ArtStoreError):
    """503: the search takes too long. Make it narrower."""

    default_code = "search_too_slow"


class UnsupportedVersion(ArtStoreError):
    """505: the service does not speak this version of HTTP."""

    default_code = "unsupported_version"


class StorageFull(ArtStoreError):
    """507: no element has space for the file."""

    default_code = "storage_full"


class ConnectionFailed(ArtStoreError):
    """No answer: the address is wrong, or the connection failed for longer than the client retries."""

    default_code = "connection_failed"
    never_sent: bool = False
    """No connection was made, so the request was not carried out."""


class InvalidAnswer(ArtStoreError):
    """The answer is not one of ArtStore: the address is wrong, or a proxy answered."""

    default_code = "invalid_answer"


class ContentDamaged(ArtStoreError):
    """The bytes that arrived do not have the digest of the file, also when they were fetched again."""

    default_code = "content_damaged"


class ContentChanged(ArtStoreError):
    """The content was replaced while it was read; or the local file changed while it was sent."""

    default_code = "content_changed"


class StillQueued(ArtStoreError):
    """A change waits for its element for longer than `saga_wait_s`. It is stored, and will be made.

    `saga_id` is its saga (`store.sagas.wait`).
    """

    default_code = "still_queued"
    saga_id: str = ""


BY_CODE: dict[str, type[ArtStoreError]] = {cls.default_code: cls for cls in ArtStoreError.__subclasses__()}
BY_STATUS: dict[int, type[ArtStoreError]] = {
    400: Malformed,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    408: TooSlow,
    409: Conflict,
    411: LengthRequired,
    412: RevisionMismatch,
    413: TooLarge,
    414: UriTooLong,
    415: UnsupportedMediaType,
    416: RangeNotSatisfiable,
    417: ExpectationFailed,
    422: InvalidFields,
    423: UploadLocked,
    428: PreconditionRequired,
    429: RateLimited,
    431: TooManyHeaders,
    460: ChecksumMismatch,
    499: BadGateway,  # a gateway took the client for gone
    500: InternalError,
    501: NotImplementedByServer,
    502: BadGateway,
    503: Unavailable,
    504: Unavailable,
    505: UnsupportedVersion,
    507: StorageFull,
}


def from_problem(problem: Mapping[str, Any], status: int, headers: Mapping[str, str] | None = None) -> ArtStoreError:
    """The error of a problem document. An unknown code has the class of its status."""
    code = str(problem.get("code", ""))
    cls = BY_CODE.get(code) or BY_STATUS.get(status, ArtStoreError)
    return cls(
        str(problem.get("detail") or problem.get("title") or f"the service answered {status}"),
        status=status,
        code=code or cls.default_code or f"status_{status}",
        request_id=str(problem.get("request_id") or (headers or {}).get("x-request-id", "")),
        retry_after=_retry_after(problem, headers or {}),
        fields={name: value for name, value in problem.items() if name not in _MEMBERS},
    )


def from_answer(status: int, headers: Mapping[str, str], body: bytes) -> ArtStoreError:
    """The error of an answer whose status is 400 or more; the body need not be a problem document."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    return from_problem(problem if isinstance(problem, dict) else {}, status, headers)


def _retry_after(problem: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    """Seconds. The form of Retry-After with a date is not used by the services, and ignored."""
    for value in (headers.get("retry-after"), problem.get("retry_after_s")):
        try:
            seconds = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None
