"""Every error a user or another module can meet, with its code and status, in one place.

    ArtStoreError
    ├── Malformed 400            ├── DigestMismatch 400
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
    ├── FileDamaged 500          │
    ├── BadGateway 502           ├── Unavailable 503
    ├── ElementFailed 503        ├── Overloaded 503
    └── StorageFull 507

An error crosses the wire as RFC 9457 `application/problem+json` and is raised again in the calling module as the same
class, found by its `code`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import orjson

PROBLEM_JSON = "application/problem+json"
RESERVED_FIELDS = frozenset({"type", "title", "status", "detail", "code", "request_id"})
RETRY_AFTER_S = 5
"""What a caller is told when a part is away and nobody knows for how long."""


class StartRefused(Exception):
    """What keeps a service from starting, said to its operator. Never crosses the wire."""


class ArtStoreError(Exception):
    """Base of all. `detail` is for the caller to read; `fields` become members of the problem document."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    closes: ClassVar[bool] = False
    """The connection ends with the answer: the end of the request's content is not known, so a next request could not be
    told from it."""

    def __init__(self, detail: str = "", *, retry_after_s: int | None = None, **fields: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.fields = fields
        self.retry_after_s = retry_after_s if retry_after_s is not None else self.default_retry_after_s()

    @classmethod
    def default_retry_after_s(cls) -> int | None:
        return RETRY_AFTER_S if cls.status in (502, 503) else None

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
    status, code, title = 400, "malformed", "The request could not be understood"


class UnsupportedHeader(ArtStoreError):
    """A header that would change what the request means, on an endpoint that cannot honour it (docs/api.md)."""

    status, code, title = 400, "unsupported_header", "A header of the request cannot be honoured here"


class DigestMismatch(ArtStoreError):
    status, code, title = 400, "digest_mismatch", "The body does not match its stated digest"


class Unauthenticated(ArtStoreError):
    status, code, title = 401, "unauthenticated", "A valid access token is needed"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "www-authenticate": 'Bearer realm="artstore"'}


class Forbidden(ArtStoreError):
    status, code, title = 403, "forbidden", "The account lacks the permission for this"


class NotFound(ArtStoreError):
    status, code, title = 404, "not_found", "There is no such thing"


class MethodNotAllowed(ArtStoreError):
    status, code, title = 405, "method_not_allowed", "The resource does not know this method"

    def headers(self) -> dict[str, str]:
        allow = self.fields.get("allow")
        return {**super().headers(), **({"allow": str(allow)} if allow else {})}


class TooSlow(ArtStoreError):
    """The sender stalled; what it may still send would be taken for a request."""

    status, code, title = 408, "too_slow", "The body came too slowly"
    closes = True


class Conflict(ArtStoreError):
    status, code, title = 409, "conflict", "The request conflicts with the present state"


class ModeForbids(ArtStoreError):
    status, code, title = 409, "mode_forbids", "The element's mode forbids this"


class UnknownRoot(ArtStoreError):
    """A report came from a root that is not the one the registry knows for this element."""

    status, code, title = 409, "root_refused", "The registry knows another root for this element"


class Fenced(ArtStoreError):
    """A report came from an older process or a copy of the element's root."""

    status, code, title = 409, "fenced", "Another process owns this element"


class KeyInUse(ArtStoreError):
    """The first request under the key is still running, or its server died and its lease is not over yet."""

    status, code, title = 409, "idempotency_key_in_use", "A request under this Idempotency-Key is still running"


class Quarantined(ArtStoreError):
    """Nobody deleted it: its bytes or attributes were found damaged, and lie in the element's quarantine for a person."""

    status, code, title = 410, "quarantined", "The file was found damaged and was put aside"


class LengthRequired(ArtStoreError):
    status, code, title = 411, "length_required", "The request must state the length of its content"
    closes = True


class CursorExpired(ArtStoreError):
    """Changes after the cursor were purged, or the catalog was restored to a state before it."""

    status, code, title = 410, "cursor_expired", "The changes after this cursor are not kept"


class RevisionMismatch(ArtStoreError):
    status, code, title = 412, "revision_mismatch", "The file has another revision"


class TooLarge(ArtStoreError):
    status, code, title = 413, "too_large", "The body is too large"


class UriTooLong(ArtStoreError):
    status, code, title = 414, "uri_too_long", "The address is too long"


class UnsupportedMediaType(ArtStoreError):
    status, code, title = 415, "unsupported_media_type", "The content type is not understood here"


class RangeNotSatisfiable(ArtStoreError):
    status, code, title = 416, "range_not_satisfiable", "The range lies outside the file"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "content-range": f"bytes */{self.fields.get('size_bytes', 0)}"}


class ExpectationFailed(ArtStoreError):
    status, code, title = 417, "expectation_failed", "The expectation is not known here"
    closes = True


class InvalidFields(ArtStoreError):
    status, code, title = 422, "invalid_fields", "Some fields are not valid"


class KeyReused(ArtStoreError):
    status, code, title = 422, "idempotency_key_reused", "The Idempotency-Key was used for another request"


class RateLimited(ArtStoreError):
    status, code, title = 429, "rate_limited", "Too many requests"


class TooManyHeaders(ArtStoreError):
    status, code, title = 431, "too_many_headers", "The header fields are too large"


class InternalError(ArtStoreError):
    status, code, title = 500, "internal_error", "Something broke inside; the request id finds it in the logs"


class FileDamaged(ArtStoreError):
    """One file's bytes or attributes are not what they were. The element that says so is well."""

    status, code, title = 500, "file_damaged", "The file is damaged"


class NotImplementedHere(ArtStoreError):
    status, code, title = 501, "not_implemented", "The request uses a part of HTTP that is not implemented here"
    closes = True


class BadGateway(ArtStoreError):
    status, code, title = 502, "bad_gateway", "Another part gave an answer that makes no sense"


class Unavailable(ArtStoreError):
    status, code, title = 503, "unavailable", "A part that is needed is away"


class ElementFailed(ArtStoreError):
    """The element's disk reported an error; it has made itself read-only."""

    status, code, title = 503, "element_failed", "The element's disk failed"


class UnsupportedVersion(ArtStoreError):
    status, code, title = 505, "unsupported_version", "The HTTP version is not supported"
    closes = True


class Overloaded(ArtStoreError):
    """The service that answers has as many requests open as it may. No other part is at fault."""

    status, code, title = 503, "overloaded", "This service has too much to do"


class StorageFull(ArtStoreError):
    status, code, title = 507, "storage_full", "There is no room for this"


def _tree(cls: type[ArtStoreError]) -> list[type[ArtStoreError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in _tree(child))]


BY_CODE: dict[str, type[ArtStoreError]] = {cls.code: cls for cls in reversed(_tree(ArtStoreError)[1:])}
BY_STATUS: dict[int, type[ArtStoreError]] = {cls.status: cls for cls in reversed(_tree(ArtStoreError)[1:])}


def from_wire(status: int, body: bytes) -> ArtStoreError:
    """The error another module answered with. What is no problem document of ours becomes BadGateway."""
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
