"""Every error a user or another module can meet, with its code and status, in one place.

    ArtStoreError
    ├── Malformed 400            ├── DigestMismatch 400
    ├── InvalidScope 400         │
    ├── Unauthenticated 401      ├── Forbidden 403
    ├── NotFound 404             ├── MethodNotAllowed 405
    ├── TooSlow 408              │
    ├── Conflict 409             ├── ModeForbids 409
    ├── UnsupportedHeader 400    ├── LengthRequired 411
    ├── ExpectationFailed 417    ├── NotImplementedHere 501
    ├── UnsupportedVersion 505   │
    ├── UnknownRoot 409          ├── Fenced 409
    ├── KeyInUse 409             ├── KeyReused 422
    ├── RevisionMismatch 412     ├── TooLarge 413
    ├── UriTooLong 414           ├── Quarantined 410, CursorExpired 410
    ├── UnsupportedMediaType 415 ├── RangeNotSatisfiable 416
    ├── InvalidFields 422        ├── RateLimited 429
    ├── TooManyHeaders 431       ├── InternalError 500
    ├── TusVersionMismatch 412   ├── UploadLocked 423
    ├── TooManyUploads 429       ├── ChecksumMismatch 460
    ├── FileDamaged 500          │
    ├── BadGateway 502           ├── Unavailable 503
    ├── ElementFailed 503        ├── Overloaded 503
    ├── SearchTooSlow 503        │
    └── StorageFull 507

An error crosses the wire as RFC 9457 `application/problem+json` and is raised again in the calling module as the same
class, found by its `code`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

PROBLEM_JSON = "application/problem+json"
RESERVED_FIELDS = frozenset({"type", "title", "status", "detail", "code", "request_id"})
ADMIN, DATABASE, REDIS = "admin", "database", "redis"
"""Dependencies in the field `away`, in X-ArtStore-Degraded and in health checks. A storage element has its id."""
RETRY_AFTER_S = 5
"""Sent with 502 and 503 when the length of the outage is unknown."""


class StartRefused(Exception):
    """A service cannot start. The text is for its operator and never crosses the wire."""


class ArtStoreError(Exception):
    """Base of all errors. `detail` is for the caller to read; `fields` become members of the problem document.

    The docstring of each class and its `remedy` make docs/errors.md (`./artstore docs`).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    remedy: ClassVar[str] = ""
    closes: ClassVar[bool] = False
    """The answer closes the connection: the end of the request's content is unknown, so the next request cannot be found."""

    def __init__(self, detail: str = "", *, retry_after_s: int | None = None, **fields: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.fields = fields
        self.retry_after_s = retry_after_s if retry_after_s is not None else self.default_retry_after_s()

    @classmethod
    def default_retry_after_s(cls) -> int | None:
        return RETRY_AFTER_S if cls.status in (429, 502, 503) else None

    def to_wire(self, request_id: str = "") -> bytes:
        """The problem document, UTF-8 JSON."""
        problem = {
            **{name: value for name, value in self.fields.items() if name not in RESERVED_FIELDS},
            "type": f"urn:artstore:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }
        if self.retry_after_s is not None:
            problem["retry_after_s"] = self.retry_after_s
        return orjson.dumps(problem, default=str)

    def headers(self) -> dict[str, str]:
        """Header fields that go with the status, names in lower case."""
        fields = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return {**fields, "connection": "close"} if self.closes else fields


class Malformed(ArtStoreError):
    """The request line, a header, the framing or the JSON cannot be read, or the body ended early."""

    status, code, title = 400, "malformed", "Malformed request"
    remedy = "Correct what `detail` names. If the connection broke, send the request again."


class UnsupportedHeader(ArtStoreError):
    """A header that would change what the request means, on an endpoint that cannot honour it (docs/api-headers.md)."""

    status, code, title = 400, "unsupported_header", "Header not supported here"
    remedy = "Remove the header that `detail` names."


class DigestMismatch(ArtStoreError):
    """The body does not match a digest that the request states. Nothing was stored."""

    status, code, title = 400, "digest_mismatch", "Digest mismatch"
    remedy = "Compute the digest over the bytes that are sent, and send them again."


class InvalidScope(ArtStoreError):
    """A token request asks for a permission that does not exist or that the account does not have."""

    status, code, title = 400, "invalid_scope", "Scope not granted"
    remedy = "Ask for permissions of the account's role, separated by one space, or leave `scope` out."


class Unauthenticated(ArtStoreError):
    """The access token is missing, expired, revoked or not meant for this service, or the login is wrong."""

    status, code, title = 401, "unauthenticated", "Valid credentials are required"
    remedy = "Fetch a new token from `POST /api/auth/token`; if that fails, check client id and secret."

    token_refused: bool = False
    """A token was sent, but is not valid (RFC 6750 §3.1)."""

    def headers(self) -> dict[str, str]:
        reason = ', error="invalid_token"' if self.token_refused else ""
        return {**super().headers(), "www-authenticate": f'Bearer realm="artstore"{reason}'}


class Forbidden(ArtStoreError):
    """The account lacks the permission of this endpoint."""

    status, code, title = 403, "forbidden", "Permission denied"
    remedy = "Use an account with the permission that `detail` names, or have its role changed."

    def headers(self) -> dict[str, str]:
        """With the scope that a token needs (RFC 6750 §3.1), if a permission is missing."""
        needed = self.fields.get("permission")
        if needed is None:
            return super().headers()
        challenge = f'Bearer realm="artstore", error="insufficient_scope", scope="{needed}"'
        return {**super().headers(), "www-authenticate": challenge}


class LinkRefused(ArtStoreError):
    """A signed link has expired, was revoked, or was not signed by this system."""

    status, code, title = 403, "link_refused", "Link not valid"
    remedy = "Ask the program that gave you the link for a new one."
    link: Any = None
    """For the audit log: what a link was for that was valid once. The answer does not say it."""

    def of(self, link: object) -> LinkRefused:
        self.link = link
        return self


class NotFound(ArtStoreError):
    """The file, account, element, saga or path does not exist."""

    status, code, title = 404, "not_found", "Not found"
    remedy = "Check the id and the path."


class MethodNotAllowed(ArtStoreError):
    """The resource exists and does not support this method."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"
    remedy = "Use a method that the `Allow` header lists."

    def headers(self) -> dict[str, str]:
        allow = self.fields.get("allow")
        return {**super().headers(), **({"allow": str(allow)} if allow else {})}


class TooSlow(ArtStoreError):
    """The client stalled or sent more slowly than the minimum rate."""

    status, code, title = 408, "too_slow", "Request too slow"
    remedy = "Send again over a faster connection; an operator can lower `BODY_MIN_RATE_BYTES_PER_S`."
    closes = True


class Conflict(ArtStoreError):
    """The request contradicts the current state, for instance an id that exists or a change that is still
    being settled."""

    status, code, title = 409, "conflict", "Conflict with the current state"
    remedy = "Read the resource, then decide whether to send the request again."


class ModeForbids(ArtStoreError):
    """The mode of the storage element that holds the file does not allow this operation."""

    status, code, title = 409, "mode_forbids", "Forbidden by the element's mode"
    remedy = "Store files that must change with `retention=temporary`; a mode never goes back by itself."


class UnknownRoot(ArtStoreError):
    """An element reported a root folder that is not the one registered for it. Only elements receive this."""

    status, code, title = 409, "root_refused", "Unknown root"
    remedy = "Mount the right disk, or accept the root (`POST /api/storage-elements/{id}/accept-root`)."


class Fenced(ArtStoreError):
    """A report came from an older process of the element or from a copy of its root. Only elements receive
    this."""

    status, code, title = 409, "fenced", "Fenced: another process owns this element"
    remedy = "Stop the process that must not run, or accept its root."


class KeyInUse(ArtStoreError):
    """The first request with this key is still running, or its server died and the lease has not expired yet."""

    status, code, title = 409, "idempotency_key_in_use", "Idempotency-Key in use"
    remedy = "Send the same request again after `Retry-After`."


class Quarantined(ArtStoreError):
    """The stored bytes or attributes were found damaged. They were moved to the quarantine of the element; no
    client deleted the file."""

    status, code, title = 410, "quarantined", "File quarantined"
    remedy = "Have an operator inspect the quarantine folder; upload the file again from its source."


class LengthRequired(ArtStoreError):
    """The request states no length for its content."""

    status, code, title = 411, "length_required", "Content length required"
    remedy = "Send `Content-Length`, or `Transfer-Encoding: chunked`."
    closes = True


class CursorExpired(ArtStoreError):
    """The changes after this cursor were purged, or the catalog was restored to an earlier state."""

    status, code, title = 410, "cursor_expired", "Cursor expired"
    remedy = "List the files once, then follow the changes without `since`."


class RevisionMismatch(ArtStoreError):
    """A condition (`If-Match`, `If-None-Match`) does not hold: the file has another revision, or exists
    already."""

    status, code, title = 412, "revision_mismatch", "Revision does not match"
    remedy = "Read the file, merge the change, and send it with the current revision."


class PreconditionRequired(ArtStoreError):
    """A file can be created under an id of the client only with `If-None-Match: *` (RFC 6585 §3)."""

    status, code, title = 428, "precondition_required", "Precondition required"
    remedy = "Send `If-None-Match: *` to create the file; to replace its bytes use `PUT …/content`."


class TooLarge(ArtStoreError):
    """The body, a part or the attributes exceed a limit."""

    status, code, title = 413, "too_large", "Content too large"
    remedy = "Stay below the limit that `detail` states."


class TusVersionMismatch(ArtStoreError):
    """A request to a resumable upload does not state the version of the tus protocol that is spoken here."""

    status, code, title = 412, "tus_version", "Unsupported version of the tus protocol"
    remedy = "Send `Tus-Resumable: 1.0.0`."

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "tus-version": "1.0.0"}


class UriTooLong(ArtStoreError):
    """The request target exceeds 8 KiB."""

    status, code, title = 414, "uri_too_long", "URI too long"
    remedy = "Move data from the query string to the body, or shorten the search."


class UnsupportedMediaType(ArtStoreError):
    """The content has a type or an encoding that this endpoint does not accept."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"
    remedy = "Send the content unencoded, with the type that `detail` names."


class RangeNotSatisfiable(ArtStoreError):
    """The requested range starts after the end of the file."""

    status, code, title = 416, "range_not_satisfiable", "Range not satisfiable"
    remedy = "Take the size from `Content-Range: bytes */SIZE`."

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "content-range": f"bytes */{self.fields.get('size_bytes', 0)}"}


class ExpectationFailed(ArtStoreError):
    """The `Expect` header holds something other than `100-continue`."""

    status, code, title = 417, "expectation_failed", "Unknown expectation"
    remedy = "Remove the header."
    closes = True


class InvalidFields(ArtStoreError):
    """The request can be read, but values in it are not allowed; `fields` lists them."""

    status, code, title = 422, "invalid_fields", "Invalid fields"
    remedy = "Correct the fields that `detail` explains."


class UploadLocked(ArtStoreError):
    """Another request is sending bytes to this resumable upload, or completing it."""

    status, code, title = 423, "upload_locked", "Upload in use"
    remedy = "Ask for the offset with HEAD, which ends a broken-off PATCH, then continue from there."


class KeyReused(ArtStoreError):
    """The key belongs to a request with another content."""

    status, code, title = 422, "idempotency_key_reused", "Idempotency-Key used for another request"
    remedy = "Use a new key for each new request."


class RateLimited(ArtStoreError):
    """The account or the address exceeds a limit on requests, logins, failures or transfers."""

    status, code, title = 429, "rate_limited", "Too many requests"
    remedy = "Wait for `Retry-After`; an operator can raise `rate_per_minute` of the account."


class TooManyUploads(ArtStoreError):
    """The account, or the storage element, has too many unfinished resumable uploads."""

    status, code, title = 429, "too_many_uploads", "Too many unfinished uploads"
    remedy = "Finish or delete uploads that were begun; abandoned ones expire."


class TooManyHeaders(ArtStoreError):
    """The request has more than 64 header fields, or more than 32 KiB of them."""

    status, code, title = 431, "too_many_headers", "Header fields too large"
    remedy = "Send fewer or shorter headers."


class ChecksumMismatch(ArtStoreError):
    """The bytes of a PATCH do not match its `Upload-Checksum`. They were discarded, and the offset stays."""

    status, code, title = 460, "checksum_mismatch", "Checksum mismatch"
    remedy = "Send the same bytes again from the same offset."


class InternalError(ArtStoreError):
    """A defect of this service."""

    status, code, title = 500, "internal_error", "Internal error"
    remedy = (
        "Find `request_id` in the log of the service and report it. A change may have been made: read the "
        "file before repeating."
    )


class FileDamaged(ArtStoreError):
    """The bytes or attributes of this file cannot be read as they were stored. Other files of the element are
    not affected."""

    status, code, title = 500, "file_damaged", "File damaged"
    remedy = "Have an operator check the disk and start a verification; upload the file again from its source."


class NotImplementedHere(ArtStoreError):
    """The request uses a part of HTTP that this service does not implement, such as a transfer coding other
    than chunked."""

    status, code, title = 501, "not_implemented", "Not implemented"
    remedy = "Send the request without it."
    closes = True


class BadGateway(ArtStoreError):
    """Another service gave an answer that makes no sense, or refused the account of this service."""

    status, code, title = 502, "bad_gateway", "Invalid answer from a dependency"
    remedy = "Try again after `Retry-After`; if it persists, check versions and accounts of the services."


class Unavailable(ArtStoreError):
    """PostgreSQL, Redis, S3 or another service does not answer; `away` or `elements` names it."""

    status, code, title = 503, "unavailable", "A dependency is unavailable"
    remedy = "Try again after `Retry-After`; docs/operations/outages.md says what still works."


class SearchTooSlow(ArtStoreError):
    """PostgreSQL took too long for this search and gave it up. Other requests are not affected."""

    status, code, title = 503, "search_too_slow", "The search takes too long"
    remedy = "Add a word of three or more letters, a tag, an owner or a range of time; leave out `count`."


class ElementFailed(ArtStoreError):
    """The disk of the element reported an error, and the element turned read-only. Stored files stay readable."""

    status, code, title = 503, "element_failed", "Storage element failed"
    remedy = "Have an operator check the disk and restart the element."


class UnsupportedVersion(ArtStoreError):
    """The request uses a version other than HTTP/1.0 or HTTP/1.1."""

    status, code, title = 505, "unsupported_version", "HTTP version not supported"
    remedy = "Use HTTP/1.1."
    closes = True


class Overloaded(ArtStoreError):
    """The service has too many requests open. No other part is at fault."""

    status, code, title = 503, "overloaded", "Service overloaded"
    remedy = "Try again after `Retry-After`, with fewer requests at once."


class StorageFull(ArtStoreError):
    """No element of the wanted mode has space for the file."""

    status, code, title = 507, "storage_full", "Insufficient storage"
    remedy = "Delete temporary files, or have an operator add an element."


def _tree(cls: type[ArtStoreError]) -> list[type[ArtStoreError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in _tree(child))]


BY_CODE: dict[str, type[ArtStoreError]] = {cls.code: cls for cls in reversed(_tree(ArtStoreError)[1:])}
BY_STATUS: dict[int, type[ArtStoreError]] = {cls.status: cls for cls in reversed(_tree(ArtStoreError)[1:])}


def fault_text(name: str, found: Mapping[str, Any]) -> str:
    """One finding of pydantic about the field `name`, in plain words: the field, its problem, its remedy."""
    fixed = {"missing": f"{name} is missing", "extra_forbidden": f"{name} is unknown"}.get(found["type"])
    if fixed is not None:
        return fixed
    said = re.sub(r"^(Input|String|Value|List) should ", "must ", found["msg"].removeprefix("Value error, "))
    if not name:
        return said
    return f"{name} {said}" if said.startswith("must ") else f"{name}: {said}"


def from_wire(status: int, body: bytes) -> ArtStoreError:
    """Rebuild the error that another module sent; anything but a problem document of ours becomes BadGateway."""
    try:
        problem = orjson.loads(body)
        cls = BY_CODE[problem["code"]]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        known = BY_STATUS.get(status)
        return known(f"answered {status}") if known else BadGateway(f"answered {status} without a problem document")
    fields = {
        name: value
        for name, value in problem.items()
        if name not in RESERVED_FIELDS and name not in ("retry_after_s", "self")
    }
    return cls(str(problem.get("detail", "")), retry_after_s=problem.get("retry_after_s"), **fields)
