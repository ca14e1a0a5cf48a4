"""Calls to the storage elements (artstore.contracts.storage)."""

from __future__ import annotations

from collections.abc import Mapping

from artstore.contracts.elements import Element
from artstore.contracts.files import NewFile
from artstore.contracts.storage import NEW_FILE_HEADER, SAGA_HEADER, encode_new_file
from artstore.peers.client import Peer, PeerAnswer
from artstore.peers.session import Peers

from .uploads.body import Body
from .uploads.digests import forwarded

EXPECT = {"expect": "100-continue"}
"""The element says what it has against a large file before the first byte leaves: then another may be asked."""


class Elements:
    """One face for all elements; which one is an argument."""

    def __init__(self, peers: Peers, *, idle_timeout_s: float, call_timeout_s: float) -> None:
        self._peers, self._idle_timeout_s, self._call_timeout_s = peers, idle_timeout_s, call_timeout_s

    def refuses(self, element: Element) -> bool:
        """Whether its breaker is open."""
        return self._to(element).breaker.refuses

    async def put(self, element: Element, file_id: str, saga_id: str, new: NewFile, body: Body) -> bytes:
        """The file's attr.json. When this returns the file is on the element's disk, its saga still open."""
        headers = {
            SAGA_HEADER: saga_id,
            NEW_FILE_HEADER: encode_new_file(new),
            "content-type": new.content_type,
        }
        return (await self._send(element, "PUT", f"/api/files/{file_id}", headers, body)).body

    async def replace(self, element: Element, file_id: str, headers: Mapping[str, str], body: Body) -> PeerAnswer:
        return await self._send(element, "PUT", f"/api/files/{file_id}/content", headers, body)

    async def patch(self, element: Element, file_id: str, headers: Mapping[str, str], changes: bytes) -> PeerAnswer:
        return await self._to(element).call(
            "PATCH", f"/api/files/{file_id}", body=changes, headers=headers, timeout_s=self._call_timeout_s
        )

    async def delete(self, element: Element, file_id: str, headers: Mapping[str, str]) -> None:
        await self._to(element).call("DELETE", f"/api/files/{file_id}", headers=headers, timeout_s=self._call_timeout_s)

    async def load(self, element: Element, file_id: str) -> bytes:
        """The file's attr.json. Raises NotFound."""
        peer = self._to(element)
        return (await peer.call("GET", f"/api/files/{file_id}", timeout_s=self._call_timeout_s)).body

    async def _send(
        self, element: Element, method: str, path: str, headers: Mapping[str, str], body: Body
    ) -> PeerAnswer:
        peer = self._to(element)
        headers = {**headers, **forwarded(body.digests)}
        if body.held and "content-type" in headers:
            return await peer.call(
                method,
                path,
                body=body.held_bytes,
                headers=headers,
                timeout_s=self._call_timeout_s,
                kind="transfer",
            )
        # A call without a content type would be one of JSON; here it means: the file keeps the type it has.
        return await peer.upload(
            method,
            path,
            chunks=body.pieces(),
            size_bytes=body.size_bytes,
            headers=headers if body.held else {**headers, **EXPECT},
            idle_timeout_s=self._idle_timeout_s,
        )

    def _to(self, element: Element) -> Peer:
        return self._peers.to(element.id, element.url)
