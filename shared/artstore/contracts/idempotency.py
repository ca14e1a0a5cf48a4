"""Idempotency-Key: what the ingester and admin, who both write kept answers, must say the same."""

from __future__ import annotations

import msgspec

HEADER = "idempotency-key"
REPLAYED = "idempotent-replayed"
MAX_KEY_CHARS = 255
KEEP_S = 24 * 3600
"""A key is its account's for so long, counted from its first use."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it is kept and given again. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


def uploaded(file_id: str, record: bytes) -> Answer:
    """201 to an upload; `record` is the file's attr.json."""
    headers = {"content-type": "application/json", "location": f"/api/files/{file_id}", "etag": '"1"'}
    return Answer(status=201, headers=headers, body=record)


def changed(record: bytes, etag: str) -> Answer:
    """200 to a change; `record` is the new attr.json."""
    return Answer(status=200, headers={"content-type": "application/json", "etag": etag}, body=record)


def accepted(saga_id: str, saga: bytes) -> Answer:
    """202 to a change that waits for its element, and where to ask what has become of it."""
    headers = {"content-type": "application/json", "location": f"/api/sagas/{saga_id}"}
    return Answer(status=202, headers=headers, body=saga)


GONE = Answer(status=204, headers={})
"""To a delete."""
