"""Fakes of admin and storage elements behind real sockets, with faults on demand."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from socket import socket as Socket
from typing import Any

import msgspec
from aiohttp import web

from artstore.clock import Clock, rfc3339, uuid7
from artstore.contracts.elements import Capacity, Element, Fill, Mode, Snapshot
from artstore.contracts.files import Attributes, encode
from artstore.contracts.storage import (
    FILES_HEADER,
    SAGA_HEADER,
    SMALL_FILE_BYTES,
    FileRead,
    ReadRefused,
    encode_reads,
)
from artstore.contracts.tokens import Permission, Role, TokenAnswer
from artstore.errors import ArtStoreError, Malformed, NotFound, Quarantined, RevisionMismatch
from artstore.testing.tokens import Signer


def bound_socket() -> Socket:
    """Bound at once, because a port that was only found free may be taken before it is used."""
    held = Socket()
    held.bind(("127.0.0.1", 0))
    return held


def url_of(held: Socket) -> str:
    return f"http://127.0.0.1:{held.getsockname()[1]}"


def new_file(content: bytes, element_id: str = "se-01", revision: int = 1, **changes: Any) -> Attributes:
    now = rfc3339(Clock().now())
    fields: dict[str, object] = {
        "file_id": str(uuid7()),
        "revision": revision,
        "filename": "Договор №5.pdf",
        "content_type": "application/pdf",
        "size_bytes": len(content),
        "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "storage_element_id": element_id,
        "created_at": now,
        "updated_at": now,
        "owner": "tester",
        "tags": [],
        "metadata": {},
        "retention": "permanent",
        "expires_at": None,
    }
    return Attributes(**{**fields, **changes})


@dataclass
class StandInElement:
    """The part of an element that the query module calls. `breaks_after` truncates the body, `stalls_after` stops sending."""

    id: str
    socket: Socket = field(default_factory=bound_socket)
    files: dict[str, tuple[Attributes, bytes]] = field(default_factory=dict)
    quarantined: set[str] = field(default_factory=set)
    """Ids of quarantined files."""
    unconfirmed: dict[str, str] = field(default_factory=dict)
    """Saga ids of files whose commit the element does not know of."""
    slow: set[str] = field(default_factory=set)
    """Ids of files that it does not read together with others."""
    reads_together: bool = True
    read_together: list[list[str]] = field(default_factory=list)
    """The ids of each request for small files."""
    attribute_requests: int = 0
    breaks_after: int | None = None
    stalls_after: int | None = None
    answers_after_s: float = 0
    connection_lost: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    def put(self, content: bytes, **changes: Any) -> Attributes:
        attributes = new_file(content, self.id, **changes)
        self.files[attributes.file_id] = (attributes, content)
        return attributes

    def described(self) -> Element:
        now = rfc3339(Clock().now())
        room = Capacity(total_bytes=1, used_bytes=0, available_bytes=1, files=0, fill=Fill.OK)
        return Element(
            id=self.id,
            url=url_of(self.socket),
            mode=Mode.EDIT,
            backend="local",
            version="0",
            capacity=room,
            priority=0,
            status="online",
            last_seen_at=now,
            registered_at=now,
        )

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/api/files/contents", self._small_files)
        app.router.add_get("/api/files/{file_id}", self._attributes)
        app.router.add_get("/api/files/{file_id}/content", self._content, allow_head=False)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.SockSite(self._runner, self.socket).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self.socket.close()

    async def _attributes(self, request: web.Request) -> web.Response:
        self.attribute_requests += 1
        await asyncio.sleep(self.answers_after_s)
        held = self.files.get(request.match_info["file_id"])
        if held is None:
            return self._nothing(request)
        saga = {SAGA_HEADER: self.unconfirmed[held[0].file_id]} if held[0].file_id in self.unconfirmed else {}
        return web.Response(body=encode(held[0]), content_type="application/json", headers=saga)

    async def _small_files(self, request: web.Request) -> web.Response:
        """Raises Malformed like an element of an earlier version, for which the path is one file's."""
        if not self.reads_together:
            refusal = Malformed()
            return web.Response(status=400, body=refusal.to_wire(), content_type="application/problem+json")
        file_ids = request.headers[FILES_HEADER].split(",")
        self.read_together.append(file_ids)
        return web.Response(body=encode_reads([self._read(file_id) for file_id in file_ids]))

    def _read(self, file_id: str) -> FileRead | ReadRefused | None:
        held = self.files.get(file_id)
        if held is None:
            refusal = self._refusal(file_id)
            return ReadRefused(refusal.status, refusal.to_wire())
        if file_id in self.slow:
            return None
        content = held[1] if len(held[1]) <= SMALL_FILE_BYTES else None
        return FileRead(encode(held[0]), content, file_id in self.unconfirmed)

    def _refusal(self, file_id: str) -> ArtStoreError:
        return Quarantined() if file_id in self.quarantined else NotFound()

    def _nothing(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request.match_info["file_id"])
        return web.Response(status=refusal.status, body=refusal.to_wire(), content_type="application/problem+json")

    async def _content(self, request: web.Request) -> web.StreamResponse:
        held = self.files.get(request.match_info["file_id"])
        if held is None:
            return self._nothing(request)
        attributes, content = held
        etag = f'"{attributes.checksum}"'
        if request.headers.get("if-match", etag) != etag:
            refusal = RevisionMismatch()
            return web.Response(status=412, body=refusal.to_wire(), content_type="application/problem+json")
        answer = web.StreamResponse(headers={"etag": etag})
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", "")):
            first, last = int(asked[1]), int(asked[2])
            answer.set_status(206)
            answer.headers["content-range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        answer.content_length = len(content)
        await answer.prepare(request)
        await self._send(request, answer, content)
        return answer

    async def _send(self, request: web.Request, answer: web.StreamResponse, content: bytes) -> None:
        stop = min(n for n in (self.breaks_after, self.stalls_after, len(content)) if n is not None)
        try:
            for start in range(0, stop, 65536):
                await answer.write(content[start : min(start + 65536, stop)])
            if self.stalls_after is not None:
                await asyncio.Event().wait()
        except (asyncio.CancelledError, ConnectionError):
            self.connection_lost.set()
            raise
        if self.breaks_after is not None and request.transport is not None:
            request.transport.close()


@dataclass
class StandInAdmin:
    """Gives out a token for the module's own account and the public keys."""

    signer: Signer
    socket: Socket = field(default_factory=bound_socket)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/api/auth/token", self._token)
        app.router.add_get("/.well-known/jwks.json", self._keys)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, self.socket).start()
        try:
            yield
        finally:
            await runner.cleanup()
            self.socket.close()

    async def _token(self, _request: web.Request) -> web.Response:
        token = self.signer.token(Role.SERVICE, frozenset({Permission.STORAGE_READ, Permission.ELEMENTS_READ}))
        return web.Response(body=msgspec.json.encode(TokenAnswer(access_token=token)))

    async def _keys(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.signer.jwks())


def snapshot_of(*elements: StandInElement, version: int = 1) -> Snapshot:
    now = rfc3339(Clock().now())
    return Snapshot(version=version, published_at=now, elements=[element.described() for element in elements])
