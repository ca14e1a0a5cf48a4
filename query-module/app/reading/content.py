"""The read path of bytes: small and hot files as a whole, from memory or the element; others chunk by chunk.

The element's answer is compared with the cached attributes before the first byte is sent, so that a client never gets the
headers of one revision with the bytes of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
from starlette.responses import Response

from artstore.contracts.elements import Element
from artstore.contracts.storage import SMALL_FILE_BYTES
from artstore.discovery import Discovery
from artstore.errors import FileDamaged, NotFound, RangeNotSatisfiable, RevisionMismatch, Unavailable
from artstore.http.body import BodyRateLimits
from artstore.http.content_head import FieldsResponse
from artstore.http.preconditions import Plan, Validators, plan
from artstore.peers.session import Peers

from .hot import HotContents, SmallFiles, StaleAttributes
from .lookup import Found, Lookup
from .relay import FromMemory, Relay, RelayMetrics


@dataclass(frozen=True, slots=True)
class Content:
    """All downloads of this process. `answer_timeout_s` is the element's for the head of its answer, `element_idle_timeout_s`
    for each piece; `limits` are the client's."""

    lookup: Lookup
    small: SmallFiles
    hot: HotContents
    peers: Peers
    discovery: Discovery
    metrics: RelayMetrics
    answer_timeout_s: float
    element_idle_timeout_s: float
    limits: BodyRateLimits

    async def answer(self, file_id: str, method: str, conditions: Mapping[str, str]) -> tuple[Found, Response]:
        """Raises NotFound, RevisionMismatch, RangeNotSatisfiable, Unavailable; all before the answer begins."""
        # 1. The attributes, from the nearest level.
        found = await self.lookup.find(file_id, with_content=method == "GET")
        try:
            return found, await self._answer(found, method, conditions)
        except StaleAttributes:
            # 3. The caches are stale: once more, with the attributes on disk.
            found = await self.lookup.find_on_disk(found.record)
        try:
            return found, await self._answer(found, method, conditions)
        except StaleAttributes as error:
            raise Unavailable(f"the file is changing: {error}", file_id=file_id) from error

    async def _answer(self, found: Found, method: str, conditions: Mapping[str, str]) -> Response:
        head, size_bytes = found.record.head, found.record.attributes.size_bytes
        chosen = plan(method, conditions, head.validators, size_bytes)
        fields = head.fields(chosen)
        if chosen.status == 304 or method == "HEAD":
            return FieldsResponse(chosen.status, fields)
        # 2. The element's answer, checked before ours begins.
        if size_bytes <= SMALL_FILE_BYTES:
            content = await self._small_content(found)
            if content is not None:
                part = content[chosen.part.first : chosen.part.last + 1] if chosen.part else content
                self.metrics.count_whole(len(part))
                return FieldsResponse(chosen.status, fields, part)
        checksum, copied = found.record.attributes.checksum, False
        if size_bytes > SMALL_FILE_BYTES and self.hot.has_space_for(size_bytes):
            content = self.hot.find(checksum)
            if content is not None:
                part = content[chosen.part.first : chosen.part.last + 1] if chosen.part else content
                return FromMemory(chosen.status, fields, part, self.hot, self.metrics, self.limits)
            copied = chosen.part is None and self.hot.is_read_again(checksum)
        async with AsyncExitStack() as opened:
            upstream = await self._open(opened, found, chosen, head.validators)
            length = chosen.part.length if chosen.part else size_bytes
            copy = opened.enter_context(self.hot.copy(checksum, length)) if copied else None
            return Relay(chosen.status, fields, upstream, length, opened.pop_all(), self.metrics, self.limits, copy)

    async def _small_content(self, found: Found) -> bytes | None:
        """None when the content must be streamed."""
        content = self.small.find_hot(found.record.attributes)
        if content is not None:
            return content
        element = self._element_of(found)
        try:
            read = await self.small.read(found.record.attributes.file_id, element)
        except NotFound as error:
            raise StaleAttributes(f"{element.id} answered {error.status}") from error
        try:
            return self.small.verify(read, found.record.attributes) if read is not None else None
        except FileDamaged:
            return await self.small.read_alone(found.record.attributes, element)

    async def _open(
        self, opened: AsyncExitStack, found: Found, chosen: Plan, validators: Validators
    ) -> aiohttp.ClientResponse:
        attributes, element = found.record.attributes, self._element_of(found)
        asked = {"if-match": validators.etag}
        if chosen.part:
            asked["range"] = f"bytes={chosen.part.first}-{chosen.part.last}"
        path = f"/api/files/{attributes.file_id}/content"
        streamed = self.peers.to(element.id, element.url).stream(
            path, headers=asked, answer_timeout_s=self.answer_timeout_s, idle_timeout_s=self.element_idle_timeout_s
        )
        try:
            upstream = await opened.enter_async_context(streamed)
        except (NotFound, RevisionMismatch, RangeNotSatisfiable) as error:
            raise StaleAttributes(f"{element.id} answered {error.status}") from error
        wanted = (chosen.status, validators.etag, chosen.part.length if chosen.part else attributes.size_bytes)
        answered = (upstream.status, upstream.headers.get("etag"), upstream.content_length)
        if answered != wanted:
            raise StaleAttributes(f"{element.id} answered {answered}, expected {wanted}")
        return upstream

    def _element_of(self, found: Found) -> Element:
        """Raises Unavailable."""
        element_id = found.record.attributes.storage_element_id
        element = self.discovery.find(element_id)
        if element is None:
            raise Unavailable(f"{element_id} is not in the registry", away=element_id)
        if element.id in found.away:
            raise Unavailable(f"{element.id} does not answer", away=element.id)  # the lookup has just asked it
        return element
