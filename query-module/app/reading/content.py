"""The read path of bytes: from the element to the client, chunk by chunk.

The element's answer is compared with the cached attributes before the first byte is sent, so that a client never gets the
headers of one revision with the bytes of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
from starlette.responses import Response

from artstore.discovery import Discovery
from artstore.errors import NotFound, RangeNotSatisfiable, RevisionMismatch, Unavailable
from artstore.http.body import BodyRateLimits
from artstore.peers.session import Peers

from .conditions import Plan, Validators, plan, validators_of
from .headers import content_headers
from .lookup import Found, Lookup
from .relay import Relay, RelayMetrics


@dataclass(frozen=True, slots=True)
class Content:
    """All downloads of this process. `answer_timeout_s` is the element's for the head of its answer, `element_idle_timeout_s`
    for each piece; `limits` are the client's."""

    lookup: Lookup
    peers: Peers
    discovery: Discovery
    metrics: RelayMetrics
    answer_timeout_s: float
    element_idle_timeout_s: float
    limits: BodyRateLimits

    async def answer(self, file_id: str, method: str, conditions: Mapping[str, str]) -> tuple[Found, Response]:
        """Raises NotFound, RevisionMismatch, RangeNotSatisfiable, Unavailable; all before the answer begins."""
        # 1. The attributes, from the nearest level.
        found = await self.lookup.find(file_id)
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
        attributes = found.record.attributes
        validators = validators_of(attributes)
        chosen = plan(method, conditions, validators, attributes.size_bytes)
        headers = content_headers(attributes, validators, chosen)
        if chosen.status == 304 or method == "HEAD":
            return Response(status_code=chosen.status, headers=headers)
        # 2. The element's answer, checked before ours begins.
        async with AsyncExitStack() as opened:
            upstream = await self._open(opened, found, chosen, validators)
            length = int(headers["content-length"])
            return Relay(chosen.status, headers, upstream, length, opened.pop_all(), self.metrics, self.limits)

    async def _open(
        self, opened: AsyncExitStack, found: Found, chosen: Plan, validators: Validators
    ) -> aiohttp.ClientResponse:
        attributes = found.record.attributes
        element = self.discovery.find(attributes.storage_element_id)
        if element is None:
            raise Unavailable(
                f"{attributes.storage_element_id} is not in the registry", away=attributes.storage_element_id
            )
        if element.id in found.away:
            raise Unavailable(f"{element.id} does not answer", away=element.id)  # the lookup has just asked it
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


class StaleAttributes(Exception):
    """The element's content does not match the cached attributes."""
