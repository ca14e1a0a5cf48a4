"""Calls to the element that keeps an upload, as artstore.contracts.uploads defines them.

The id that a client sees names the element, so no ingester needs to remember it. An outsider who makes up an id reaches at
most an element of the registry, which knows no such upload of his account.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from artstore.contracts.elements import Element
from artstore.contracts.storage import ACCOUNT_HEADER
from artstore.contracts.uploads import (
    CHECKSUM_HEADER,
    INTERRUPT,
    LENGTH_HEADER,
    OFFSET_HEADER,
    UPLOADS_PATH,
    Complete,
    NewUpload,
    Settle,
    UploadState,
)
from artstore.discovery import Discovery
from artstore.errors import BadGateway, NotFound, Unavailable
from artstore.peers.client import Peer
from artstore.peers.connections import PeerAnswer
from artstore.peers.session import Peers

COMPLETE_TIMEOUT_S = 900.0
"""A completion may have to read a hash again, or to send the bytes to S3. An element that hangs is detected in seconds."""
_ID = re.compile(r"([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})\.([a-z0-9][a-z0-9-]{0,62})")


@dataclass(frozen=True, slots=True)
class Place:
    """An upload on its element, as its account sees it."""

    element: Element
    upload_id: str
    account: str

    @property
    def path(self) -> str:
        return f"{UPLOADS_PATH}/{self.upload_id}"

    @property
    def public_id(self) -> str:
        return f"{self.upload_id}.{self.element.id}"


def find_place(discovery: Discovery, public_id: str, account: str) -> Place:
    """Raises NotFound, and Unavailable while no element is known."""
    if not discovery.elements:
        raise Unavailable("no storage element is known")
    match = _ID.fullmatch(public_id)
    element = discovery.find(match[2]) if match is not None else None
    if match is None or element is None:
        raise NotFound("no upload has this id")
    return Place(element, match[1], account)


class UploadElements:
    """A client for the uploads of all elements."""

    def __init__(self, peers: Peers, *, idle_timeout_s: float, call_timeout_s: float) -> None:
        self._peers, self._idle_timeout_s, self._call_timeout_s = peers, idle_timeout_s, call_timeout_s

    async def create(self, element: Element, account: str, new: NewUpload) -> UploadState:
        body = msgspec.json.encode(new)
        answer = await self._call(Place(element, "", account), "POST", UPLOADS_PATH, body)
        return _state(element, answer)

    async def find(self, place: Place, *, interrupt: bool = False) -> UploadState:
        """Raises NotFound. With `interrupt`, a running PATCH is ended first."""
        path = f"{place.path}?{INTERRUPT}=true" if interrupt else place.path
        return _state(place.element, await self._call(place, "GET", path))

    async def append(
        self,
        place: Place,
        offset: int,
        chunks: AsyncIterator[bytes],
        size_bytes: int | None,
        *,
        length: str | None = None,
        checksum: str | None = None,
    ) -> UploadState:
        """The element can refuse before the first byte is sent. Bytes that it received count, also when this fails."""
        headers = {
            ACCOUNT_HEADER: place.account,
            OFFSET_HEADER: str(offset),
            "content-type": "application/octet-stream",
            "expect": "100-continue",
        }
        if length is not None:
            headers[LENGTH_HEADER] = length
        if checksum is not None:
            headers[CHECKSUM_HEADER] = checksum
        answer = await self._peer(place).upload(
            "PATCH",
            place.path,
            chunks=chunks,
            size_bytes=size_bytes,
            headers=headers,
            idle_timeout_s=self._idle_timeout_s,
        )
        return _state(place.element, answer)

    async def complete(self, place: Place, saga_id: str) -> bytes:
        """The file's attr.json. Its saga is still open."""
        body = msgspec.json.encode(Complete(saga_id=saga_id))
        answer = await self._call(place, "POST", f"{place.path}/complete", body, timeout_s=COMPLETE_TIMEOUT_S)
        return answer.body

    async def settle(self, place: Place, saga_id: str, *, committed: bool) -> UploadState:
        body = msgspec.json.encode(Settle(saga_id=saga_id, committed=committed))
        return _state(place.element, await self._call(place, "POST", f"{place.path}/settle", body))

    async def remove(self, place: Place) -> None:
        await self._call(place, "DELETE", place.path)

    async def _call(
        self, place: Place, method: str, path: str, body: bytes | None = None, *, timeout_s: float | None = None
    ) -> PeerAnswer:
        return await self._peer(place).call(
            method,
            path,
            body=body,
            headers={ACCOUNT_HEADER: place.account},
            timeout_s=timeout_s or self._call_timeout_s,
        )

    def _peer(self, place: Place) -> Peer:
        return self._peers.to(place.element.id, place.element.url)


def _state(element: Element, answer: PeerAnswer) -> UploadState:
    try:
        return msgspec.json.decode(answer.body, type=UploadState)
    except msgspec.MsgspecError as error:
        raise BadGateway(f"{element.id} answered something other than the state of an upload") from error
