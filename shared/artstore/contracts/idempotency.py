"""Idempotency-Key: what the ingester and admin share, because both store answers."""

from __future__ import annotations

import msgspec

HEADER = "idempotency-key"
REPLAYED = "idempotent-replayed"
MAX_KEY_CHARS = 255
KEEP_S = 24 * 3600
"""How long a key is remembered, counted from its first use."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A stored answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


def uploaded(file_id: str, record: bytes) -> Answer:
    """The 201 of an upload; `record` is the file's attr.json."""
    headers = {"content-type": "application/json", "location": f"/api/files/{file_id}", "etag": '"1"'}
    return Answer(status=201, headers=headers, body=record)


def batch_uploaded(results: bytes) -> Answer:
    """The 200 of a batch; `results` is its body."""
    return Answer(status=200, headers={"content-type": "application/json"}, body=results)


def changed(record: bytes, etag: str) -> Answer:
    """The 200 of a change; `record` is the new attr.json."""
    return Answer(status=200, headers={"content-type": "application/json", "etag": etag}, body=record)


def accepted(saga_id: str, saga: bytes) -> Answer:
    """The 202 of a change that waits for its element, with the URL of its saga."""
    headers = {"content-type": "application/json", "location": f"/api/sagas/{saga_id}"}
    return Answer(status=202, headers=headers, body=saga)


GONE = Answer(status=204, headers={})
"""The 204 of a delete."""
