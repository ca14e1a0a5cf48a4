"""Denied access, on every service."""

from __future__ import annotations

from typing import cast

from starlette.requests import HTTPConnection

from artstore.audit.event import Event
from artstore.audit.writer import AuditWriter
from artstore.errors import ArtStoreError
from artstore.logs import request_id

NOBODY = "-"


async def note_denied(connection: HTTPConnection, error: ArtStoreError, client_id: str = NOBODY) -> None:
    """Records who was refused what, and from where. Never raises: the refusal stands."""
    audit = cast(AuditWriter, connection.app.state.runtime.audit)
    came_from = connection.client.host if connection.client is not None else NOBODY
    metadata = {
        "method": connection.scope.get("method", NOBODY),
        "code": error.code,
        "reason": error.detail,
        "address": came_from,
        "request_id": request_id.get(),
    }
    await audit.note_denied(Event("access.denied", client_id, connection.url.path, "denied", metadata))
