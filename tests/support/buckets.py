"""Elements of a fleet whose files are in a bucket of a real SeaweedFS, and which of their files the bucket holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from artstore.testing.services import S3Server, start_s3, temporary_folder

BUCKET = "tests"


@dataclass(frozen=True)
class Bucket:
    """One prefix per element, named like the element."""

    server: S3Server

    def settings(self, element: str) -> dict[str, str]:
        return {
            "STORAGE_BACKEND": "s3",
            "S3_ENDPOINT_URL": self.server.endpoint_url,
            "S3_BUCKET": BUCKET,
            "S3_PREFIX": element,
            "S3_ACCESS_KEY_ID": self.server.access_key_id,
            "S3_SECRET_ACCESS_KEY": self.server.secret_access_key,
            "S3_TIMEOUT_S": "5",
        }

    def holds(self, element: str, file_id: str) -> bool:
        """True if the object with the file's bytes exists. Asks SeaweedFS' filer, so no code of the element is involved."""
        path = f"/buckets/{BUCKET}/{element}/files/{file_id[-4:-2]}/{file_id[-2:]}/{file_id}"
        answer = httpx.head(f"http://127.0.0.1:{self.server.ports['filer.port']}{path}", timeout=30)
        assert answer.status_code in (200, 404), answer.status_code
        return answer.status_code == 200


@contextmanager
def running_bucket() -> Iterator[Bucket]:
    with temporary_folder("artstore-s3-") as folder:
        server = start_s3(folder)
        try:
            yield Bucket(server)
        finally:
            server.stop()
