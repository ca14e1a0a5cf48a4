"""Optional audit of reads: an event `file:read` for each download and each read of attributes.

The event is durable before the answer begins, and concurrent reads share its sync. A read that cannot be recorded is
refused, as a change would be. Lists, searches and the change feed are not recorded.
"""

from __future__ import annotations

from typing import Literal, cast

from starlette.requests import Request

from artstore.audit.event import Event
from artstore.audit.writer import AuditWriter
from artstore.contracts.files import Attributes
from artstore.limits.gate import Limits
from artstore.logs import request_id

Part = Literal["attributes", "content"]


class ReadAudit:
    """Records nothing unless the setting AUDIT_READS is on."""

    def __init__(self, writer: AuditWriter, enabled: bool) -> None:
        self._writer, self._enabled = writer, enabled

    async def record(self, request: Request, file: Attributes, account: str, part: Part, *, by_link: bool) -> None:
        """`account` is the reader's id, or the id of the account that signed the link. Raises Unavailable."""
        if not self._enabled:
            return
        limits = cast(Limits, request.app.state.limits)
        metadata = {
            "file_size": file.size_bytes,
            "storage_element": file.storage_element_id,
            "revision": file.revision,
            "part": part,
            "by_link": by_link,
            "address": limits.client_address(request.scope, dict(request.scope["headers"])),
            "request_id": request_id.get(),
        }
        await self._writer.record(Event("file:read", account, file.file_id, metadata=metadata))


def part_of(method: str, status: int) -> Part:
    """The facts that an answer about the bytes shows: HEAD and 304 only that they are still the same."""
    return "attributes" if method == "HEAD" or status == 304 else "content"
