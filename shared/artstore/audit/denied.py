"""Denied access, on every service."""

from __future__ import annotations

from typing import cast

from starlette.requests import HTTPConnection

from artstore.audit.event import Event
from artstore.audit.writer import AuditWriter
from artstore.errors import ArtStoreError
from artstore.limits.gate import Limits
from artstore.logs import request_id

NOBODY = "-"


async def note_denied(
    connection: HTTPConnection,
    error: ArtStoreError,
    client_id: str = NOBODY,
    *,
    action: str = "access.denied",
    reason: str | None = None,
) -> None:
    """Records who was refused what, and from where. Never raises: the refusal stands.

    `reason`: for auditors, where the caller is told less.
    """
    audit = cast(AuditWriter, connection.app.state.runtime.audit)
    limits = cast(Limits, connection.app.state.limits)
    metadata = {
        "method": connection.scope.get("method", NOBODY),
        "code": error.code,
        "reason": reason or error.detail,
        "address": str(limits.find_client(connection.scope) or NOBODY),
        "request_id": request_id.get(),
    }
    await audit.note_denied(Event(action, client_id, connection.url.path, "denied", metadata))
