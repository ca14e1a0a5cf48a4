"""Bytes in both directions: a request's body for the store, and a file's bytes or one range of them as an
answer.

A sender or reader that stalls or is slower than the minimum rate is disconnected.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from artstore.auth.access import principal_of
from artstore.contracts.storage import AT_MOST_HEADER
from artstore.contracts.tokens import Role
from artstore.contracts.uploads import parse_number
from artstore.errors import FileDamaged, Malformed, TooSlow
from artstore.http.body import BodyLimits, BodyRateLimits, next_chunk, stated_length
from artstore.http.content_head import FieldsResponse
from artstore.http.digests import digests_in
from artstore.http.sending import BodySender
from artstore.logs import get_logger
from artstore.tasks import spawn

from ..store.get import OpenedFile
from ..store.receive import Body, Expected

log = get_logger("element.sending")

PIECE_BYTES = 1 << 20
SLOW_PIECE_BYTES = 64 << 10
"""For a slow client: a piece stays in memory until it is sent."""
HASH_INLINE_BYTES = 64 << 10
"""A larger piece is hashed in a thread."""
RELAY_STALL_S = 3600.0
"""A module that relays bytes enforces the minimum rate for its own client. Its buffers may hold minutes of a
slow download; a module that reads nothing for this long has lost its client or hangs."""


def body_of(request: Request, limits: BodyLimits, max_bytes: int | None = None) -> Body:
    """Raises TooLarge, Malformed. Nothing has been read yet, so a refused sender has sent nothing. `max_bytes` replaces the
    limit of a file."""
    rate = limits.rate.relayed() if principal_of(request).role is Role.SERVICE else limits.rate
    limit = limits.max_file_bytes if max_bytes is None else max_bytes
    body = Body(_chunks(request, rate), stated_bytes=stated_length(request), max_bytes=limit)
    at_most = request.headers.get(AT_MOST_HEADER)
    if at_most is not None:
        body.at_most_bytes = parse_number(AT_MOST_HEADER, at_most)
    return body


def expected_digests(request: Request) -> Expected:
    """From Repr-Digest with SHA-256 (RFC 9530) and Content-MD5 (RFC 1864). Raises Malformed."""
    stated = digests_in(request.headers)
    by_algorithm = {digest.algorithm: digest.value for digest in stated}
    if "sha-512" in by_algorithm or len(by_algorithm) < len(stated):
        raise Malformed("state one sha-256, one md5 or both: the element checks no other digest")
    return Expected(sha256=by_algorithm.get("sha-256"), md5=by_algorithm.get("md5"))


async def _chunks(request: Request, rate: BodyRateLimits) -> AsyncIterator[bytes]:
    pace, now_s = rate.meter(), asyncio.get_running_loop().time
    more = True
    while more:
        chunk, more = await next_chunk(request.receive, rate, pace, now_s)
        yield chunk


def send_limits(request: Request, limits: BodyRateLimits) -> BodyRateLimits:
    """The minimum rate for this caller."""
    return BodyRateLimits(RELAY_STALL_S, 0) if principal_of(request).role is Role.SERVICE else limits


class FileResponse(FieldsResponse):
    """The bytes from `first` to `end`; `fields` state their number. Closes `opened` in any case. A client that reads more
    slowly than `limits` allow is disconnected.

    The checksum of a whole file is compared before its last piece is sent, unless the same data matched within the last
    hour. If it does not match, the answer never looks complete, and `suspect` is called with the file's id. Of a part
    alone it cannot be known.
    """

    def __init__(
        self,
        opened: OpenedFile,
        status: int,
        fields: list[tuple[bytes, bytes]],
        first: int,
        end: int,
        limits: BodyRateLimits,
        suspect: Callable[[str], None],
    ) -> None:
        super().__init__(status, fields)
        self._opened, self._first, self._end, self._limits = opened, first, end, limits
        self._suspect = suspect
        attributes, self._version = opened.attributes, opened.data.version()
        whole = end - first == attributes.size_bytes
        known = opened.store.verified.has(attributes.file_id, self._version)
        self._sha256 = hashlib.sha256() if whole and not known else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Read and checked before the head is sent, so that an unreadable file, or a damaged one of one piece, is
            # answered with an error instead of a truncated body.
            piece = await self._opened.read(self._first, min(PIECE_BYTES, self._end - self._first))
            if self._first + len(piece) >= self._end:
                await self._hash_last(piece)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with BodySender(scope, send, self._limits) as sender:
                await self._send_body(sender, piece)
        except TooSlow as error:
            log.info("slow download ended", reason=error.detail)
        finally:
            self._opened.close()

    async def _send_body(self, sender: BodySender, piece: bytes) -> None:
        position = self._first
        while True:
            position += len(piece)
            if not piece and position < self._end:
                raise OSError("the file became shorter while it was read")
            if position >= self._end:
                await sender.send(piece, more=False)
                return
            hashed = self._hash(piece)  # while the piece is sent
            try:
                await sender.send(piece, more=True)
            finally:
                await hashed
            most = SLOW_PIECE_BYTES if sender.waits else PIECE_BYTES
            piece = await self._opened.read(position, min(most, self._end - position))
            if position + len(piece) >= self._end:
                await self._hash_last(piece)

    async def _hash_last(self, piece: bytes) -> None:
        """Raises FileDamaged."""
        await self._hash(piece)
        attributes = self._opened.attributes
        if self._sha256 is None:
            return
        if f"sha256:{self._sha256.hexdigest()}" == attributes.checksum:
            self._opened.store.verified.add(attributes.file_id, self._version, attributes.size_bytes)
            return
        self._suspect(attributes.file_id)
        log.error("the bytes of a file do not match its checksum", file_id=attributes.file_id)
        raise FileDamaged("the stored bytes do not match their checksum", file_id=attributes.file_id)

    def _hash(self, piece: bytes) -> Awaitable[None]:
        if self._sha256 is None:
            return _done()
        if len(piece) <= HASH_INLINE_BYTES:
            self._sha256.update(piece)
            return _done()
        return spawn("hash", self._opened.store.read_in_thread(self._sha256.update, piece))


async def _done() -> None:
    pass
