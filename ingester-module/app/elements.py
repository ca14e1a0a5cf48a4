"""Calls to the storage elements, as artstore.contracts.storage defines them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp

from artstore.contracts.elements import Element
from artstore.contracts.files import NewFile
from artstore.contracts.storage import (
    AT_MOST_HEADER,
    NEW_FILE_HEADER,
    SAGA_HEADER,
    GroupedPut,
    encode_new_file,
    read_attributes,
)
from artstore.errors import ArtStoreError
from artstore.http.digests import Digest, digest_headers
from artstore.logs import request_id
from artstore.peers.client import Peer
from artstore.peers.connections import PeerAnswer
from artstore.peers.session import Peers
from artstore.tracing import trace_headers

from .put_group import PutGroups
from .uploads.body import Body

EXPECT = {"expect": "100-continue"}
"""The element can refuse a large file before its first byte is sent, so that a different element can be asked."""


class StoredContent:
    """The source of a body that an element has stored."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    async def next_piece(self) -> bytes:
        return await self._content.readany()


class Elements:
    """A client for all elements."""

    def __init__(self, peers: Peers, *, idle_timeout_s: float, call_timeout_s: float) -> None:
        self._peers, self._idle_timeout_s, self._call_timeout_s = peers, idle_timeout_s, call_timeout_s
        self._groups: dict[str, PutGroups] = {}

    def retain(self, ids: Collection[str]) -> None:
        """Forgets every element that is not in `ids` any more."""
        self._peers.retain(ids)
        for gone in self._groups.keys() - set(ids):
            del self._groups[gone]

    def breaker_open(self, element: Element) -> bool:
        return self._peer(element).breaker.refuses

    async def put(
        self, element: Element, file_id: str, saga_id: str, new: NewFile, body: Body, *, settle_late: bool = False
    ) -> bytes:
        """Returns the file's attr.json once the file is durable on the element. Its saga is still open. `settle_late`: see
        GroupedPut."""
        if body.buffered:
            return await self._put_small(element, file_id, saga_id, new, body, settle_late)
        headers = {
            SAGA_HEADER: saga_id,
            NEW_FILE_HEADER: encode_new_file(new),
            "content-type": new.content_type,
        }
        if body.size_bytes is None and body.at_most_bytes is not None:
            headers[AT_MOST_HEADER] = str(body.at_most_bytes)
        return (await self._send(element, "PUT", f"/api/files/{file_id}", headers, body)).body

    async def put_all(self, element: Element, puts: Sequence[GroupedPut]) -> Sequence[bytes | ArtStoreError]:
        """As `PutGroups.put_all`."""
        return await self._groups_of(element).put_all(self._peer(element), puts)

    async def _put_small(
        self, element: Element, file_id: str, saga_id: str, new: NewFile, body: Body, settle_late: bool
    ) -> bytes:
        stated = {digest.algorithm: digest.value for digest in body.digests}
        put = GroupedPut(
            file_id,
            saga_id,
            new,
            body.buffered_bytes,
            stated.get("sha-256"),
            stated.get("md5"),
            request_id.get(),
            trace_headers(),
            settle_late,
        )
        return await self._groups_of(element).put(self._peer(element), put)

    def _groups_of(self, element: Element) -> PutGroups:
        groups = self._groups.get(element.id)
        if groups is None:
            groups = self._groups[element.id] = PutGroups(timeout_s=self._call_timeout_s)
        return groups

    async def replace(self, element: Element, file_id: str, headers: Mapping[str, str], body: Body) -> PeerAnswer:
        return await self._send(element, "PUT", f"/api/files/{file_id}/content", headers, body)

    async def patch(self, element: Element, file_id: str, headers: Mapping[str, str], changes: bytes) -> PeerAnswer:
        return await self._peer(element).call(
            "PATCH", f"/api/files/{file_id}", body=changes, headers=headers, timeout_s=self._call_timeout_s
        )

    async def delete(self, element: Element, file_id: str, headers: Mapping[str, str]) -> None:
        await self._peer(element).call(
            "DELETE", f"/api/files/{file_id}", headers=headers, timeout_s=self._call_timeout_s
        )

    async def load_attributes(self, element: Element, file_id: str) -> bytes:
        """The file's attr.json. Raises NotFound."""
        peer = self._peer(element)
        return (await peer.call("GET", f"/api/files/{file_id}", timeout_s=self._call_timeout_s)).body

    @asynccontextmanager
    async def open_content(self, element: Element, file_id: str, record: bytes) -> AsyncIterator[Body]:
        """The bytes of a file whose attr.json is `record`, to be put once on another element, which verifies them. Raises
        the element's error."""
        stored = read_attributes(record, element.id)
        digest = Digest("sha-256", bytes.fromhex(stored.checksum.removeprefix("sha256:")))
        async with self._peer(element).stream(
            f"/api/files/{file_id}/content",
            headers={"if-match": f'"{stored.checksum}"'},
            answer_timeout_s=self._call_timeout_s,
            idle_timeout_s=self._idle_timeout_s,
        ) as response:
            size = stored.size_bytes
            yield Body(StoredContent(response.content), size_bytes=size, at_most_bytes=size, digests=(digest,))

    async def _send(
        self, element: Element, method: str, path: str, headers: Mapping[str, str], body: Body
    ) -> PeerAnswer:
        peer = self._peer(element)
        headers = {**headers, **digest_headers(body.digests)}
        if body.buffered and "content-type" in headers:
            return await peer.call(
                method,
                path,
                body=body.buffered_bytes,
                headers=headers,
                timeout_s=self._call_timeout_s,
                kind="transfer",
            )
        # `call` would add the JSON content type, and a replacement without one must keep the file's type.
        return await peer.upload(
            method,
            path,
            chunks=body.pieces(),
            size_bytes=body.size_bytes,
            headers=headers if body.buffered else {**headers, **EXPECT},
            idle_timeout_s=self._idle_timeout_s,
        )

    def _peer(self, element: Element) -> Peer:
        return self._peers.to(element.id, element.url)
