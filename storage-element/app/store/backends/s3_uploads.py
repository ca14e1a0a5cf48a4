"""The settings of a bucket, and the four calls of S3 that obstore does not have: find and create a bucket,
list unfinished multipart uploads, abort one.

Signed with AWS Signature Version 4 (docs.aws.amazon.com/general/latest/gr/sigv4.html); none of the four has a
body. No library signs them for us: `obstore.sign` signs requests for objects only, without parameters such as
`uploads`, and botocore would add 15 MB for these four calls.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from artstore.errors import Unavailable

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
LIST_PAGE = 1000
MAX_ANSWER_BYTES = 8 << 20
"""One page of a list has at most 1 000 entries of about 1 KiB."""
CODE = re.compile(rb"<Code>(\w+)</Code>")
OWN_BUCKET = b"BucketAlreadyOwnedByYou"


@dataclass(frozen=True, slots=True)
class S3Settings:
    """`prefix` belongs to one element: two elements may share a bucket, never a prefix."""

    endpoint_url: str
    bucket: str
    prefix: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = "us-east-1"
    timeout_s: float = 30.0
    """For one request, so for one part of an upload or a download."""
    connect_timeout_s: float = 3.0
    retries: int = 2
    """Repetitions of one idempotent request, within `retry_for_s`."""
    retry_for_s: float = 10.0
    part_bytes: int = 8 << 20
    """Part size of a multipart upload. S3 allows 10 000 parts, so larger files get larger parts."""
    parts_at_once: int = 3
    """An upload holds about this number of parts and one more in memory."""


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload_id: str
    begun_at: datetime


class S3Uploads:
    """Every call blocks, and raises Unavailable when S3 does not answer as it should."""

    def __init__(self, settings: S3Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings = settings
        self._now = now
        self._endpoint = urlsplit(settings.endpoint_url)

    def require_bucket(self) -> None:
        """Create the bucket if it does not exist."""
        if self._request("HEAD", "", {})[0] == 200:
            return
        status, body = self._request("PUT", "", {})
        if status != 200 and not (status == 409 and OWN_BUCKET in body):
            raise _refused("create the bucket", status, body)

    def unfinished(self, prefix: str) -> Iterator[MultipartUpload]:
        """Uploads of keys that begin with `prefix`."""
        marker: dict[str, str] = {}
        while True:
            query = {"uploads": "", "prefix": prefix, "max-uploads": str(LIST_PAGE), **marker}
            status, body = self._request("GET", "", query)
            if status != 200:
                raise _refused("list unfinished uploads", status, body)
            page = _parse_xml(body)
            for upload in page.iterfind("{*}Upload"):
                found = MultipartUpload(
                    _text(upload, "Key"), _text(upload, "UploadId"), _timestamp(_text(upload, "Initiated"))
                )
                if found.key.startswith(prefix):
                    yield found
            if _text(page, "IsTruncated") != "true":
                return
            marker = {"key-marker": _text(page, "NextKeyMarker"), "upload-id-marker": _text(page, "NextUploadIdMarker")}

    def abort(self, upload: MultipartUpload) -> None:
        """An upload that does not exist any more is not an error."""
        status, body = self._request("DELETE", upload.key, {"uploadId": upload.upload_id})
        if status not in (204, 200, 404):
            raise _refused("abort an upload", status, body)

    def _request(self, method: str, key: str, query: dict[str, str]) -> tuple[int, bytes]:
        path = quote(f"{self._endpoint.path.rstrip('/')}/{self._settings.bucket}" + (f"/{key}" if key else ""))
        line = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))
        connection = self._connection()
        try:
            connection.request(method, f"{path}?{line}" if line else path, headers=self._signed(method, path, line))
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable("S3 does not answer") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port, timeout_s = self._endpoint.hostname or "", self._endpoint.port, self._settings.timeout_s
        if self._endpoint.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=timeout_s)

    def _signed(self, method: str, path: str, query: str) -> dict[str, str]:
        at = self._now().strftime("%Y%m%dT%H%M%SZ")
        scope = f"{at[:8]}/{self._settings.region}/s3/aws4_request"
        headers = {"host": self._endpoint.netloc, "x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": at}
        listed = "".join(f"{name}:{value}\n" for name, value in headers.items())
        request = f"{method}\n{path}\n{query}\n{listed}\n{';'.join(headers)}\n{EMPTY_SHA256}"
        text = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = f"AWS4{self._settings.secret_access_key}".encode()
        for part in scope.split("/"):
            key = _hmac(key, part)
        credential = f"{self._settings.access_key_id}/{scope}"
        signature = _hmac(key, text).hex()
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={';'.join(headers)}, Signature={signature}"
        )
        return {**headers, "authorization": authorization}


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _parse_xml(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)  # noqa: S314 — from the service that stores the files
    except ElementTree.ParseError as error:
        raise Unavailable("the answer of S3 is not XML") from error


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""


def _timestamp(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _refused(action: str, status: int, body: bytes) -> Unavailable:
    code = CODE.search(body)
    return Unavailable(f"S3 refuses to {action}: {status} {code.group(1).decode() if code else ''}".rstrip())
