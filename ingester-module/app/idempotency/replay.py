"""Answers a request: runs it, or replays the stored answer when it runs under an Idempotency-Key that has
one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from starlette.responses import Response

from artstore.contracts.idempotency import REPLAYED, Answer
from artstore.errors import DigestMismatch, KeyReused, Unavailable

from ..uploads.body import Body
from .keys import HeldKey, Keys
from .store import Scope


class KeyedOperation(Protocol):
    """A request that stores, changes or deletes a file, with or without a key."""

    @property
    def owner(self) -> str: ...

    file_id: str
    """The file to change, or the id of the new file."""

    @property
    def body(self) -> Body | None:
        """The file's bytes, which the fingerprint does not cover: a replay compares them with the first
        answer."""

    def fingerprint(self) -> str: ...

    def describes(self, record: Mapping[str, Any], /) -> bool:
        """The stored answer has what the fingerprint does not cover. Called once the body was read."""

    async def run(self) -> Answer: ...

    async def run_under(self, key: HeldKey) -> Answer:
        """Runs, or continues after an attempt that ended without an answer, and has the answer stored."""


async def run_or_replay(keys: Keys, key: str | None, operation: KeyedOperation) -> Response:
    """Raises what the operation raises and, with a key, KeyInUse, KeyReused, DatabaseUnavailable."""
    if key is None:
        return response_of(await operation.run())
    # The claim. A crash after it: the lease ends, and a repeat takes over.
    acquired = await keys.acquire(Scope(operation.owner, key), operation.fingerprint(), operation.file_id)
    if isinstance(acquired, Answer):
        if operation.body is not None:
            await _require_same(operation, operation.body, acquired)
        if acquired.status == 201:
            operation.file_id = acquired.headers["location"].rpartition("/")[2]
        return response_of(acquired, replayed=True)
    async with keys.hold(acquired):
        return response_of(await operation.run_under(acquired))


async def content_of(body: Body) -> tuple[str, int]:
    """`sha256:<hex>` and the number of bytes, which are not stored.

    Raises DigestMismatch as the element would, Unavailable when part of the body has been sent already.
    """
    if not body.replayable:
        raise Unavailable("part of the body was sent already: send the request again")
    sha256, md5, size_bytes = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    stated = {digest.algorithm: digest.value for digest in body.digests}
    async for piece in body.pieces():
        sha256.update(piece)
        if "md5" in stated:
            md5.update(piece)
        size_bytes += len(piece)
    found = {"sha-256": sha256.digest(), "md5": md5.digest()}
    if any(stated.get(algorithm, value) != value for algorithm, value in found.items()):
        raise DigestMismatch()
    return f"sha256:{sha256.hexdigest()}", size_bytes


async def _require_same(operation: KeyedOperation, body: Body, answer: Answer) -> None:
    """Raises KeyReused when the bytes, or fields that follow them, differ from those of the first request,
    DigestMismatch, and errors of the body."""
    if answer.status >= 300:
        return  # a refusal describes no bytes
    record = orjson.loads(answer.body)
    if await content_of(body) != (record["checksum"], record["size_bytes"]):
        raise KeyReused("the file's bytes differ from those of the first request under this key")
    if not operation.describes(record):
        raise KeyReused("the fields after the file differ from those of the first request under this key")


def response_of(answer: Answer, *, replayed: bool = False) -> Response:
    headers = {**answer.headers, REPLAYED: "true"} if replayed else answer.headers
    return Response(answer.body or None, answer.status, headers)
