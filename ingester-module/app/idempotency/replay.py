"""The first answer, given again; to a body only if it is the body of the first request."""

from __future__ import annotations

import hashlib

import orjson
from starlette.responses import Response

from artstore.contracts.idempotency import REPLAYED, Answer
from artstore.errors import DigestMismatch, KeyReused, Unavailable

from ..uploads.body import Body


def first(answer: Answer) -> Response:
    return Response(answer.body or None, answer.status, answer.headers)


def again(answer: Answer) -> Response:
    return Response(answer.body or None, answer.status, {**answer.headers, REPLAYED: "true"})


async def require_same(body: Body, answer: Answer) -> None:
    """Reads all of the body and keeps nothing of it. Raises KeyReused, DigestMismatch and what is wrong with the body."""
    if answer.status >= 300:
        return  # a refusal speaks of no bytes
    record = orjson.loads(answer.body)
    checksum, size_bytes = await hashed(body)
    if (checksum, size_bytes) != (record["checksum"], record["size_bytes"]):
        raise KeyReused("the file's bytes are others than those of the first request under this key")


async def hashed(body: Body) -> tuple[str, int]:
    """`sha256:<hex>` and length. Raises DigestMismatch as the element would, Unavailable when part of the body is gone."""
    if not body.replayable:
        raise Unavailable("the body was sent in part: it is needed once more")
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
