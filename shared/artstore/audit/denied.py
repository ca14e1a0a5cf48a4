"""Denied access, on every service."""

from __future__ import annotations

from typing import cast

from starlette.requests import HTTPConnection

from artstore.audit.event import Event
from artstore.audit.writer import AuditWriter
from artstore.errors import ArtStoreError
from artstore.limits.addresses import as_caller
from artstore.limits.gate import Limits
from artstore.logs import request_id

NOBODY = "-"
LOGIN = "auth.token"


async def note_denied(
    connection: HTTPConnection,
    error: ArtStoreError,
    client_id: str = NOBODY,
    *,
    action: str = "access.denied",
    reason: str | None = None,
    account: str | None = None,
) -> None:
    """Records which caller was refused what, and from where. Never raises: the refusal stands.

    `reason`: for auditors, where the caller is told less. `action` LOGIN is a login, refused before the caller has
    proved who it is: it is counted by its address, and by `account` when that exists.
    """
    audit = cast(AuditWriter, connection.app.state.runtime.audit)
    limits = cast(Limits, connection.app.state.limits)
    address = limits.find_client(connection.scope)
    proven = client_id != NOBODY and action != LOGIN
    metadata = {
        "method": connection.scope.get("method", NOBODY),
        "code": error.code,
        "reason": reason or error.detail,
        "address": str(address or NOBODY),
        "request_id": request_id.get(),
    }
    stranger = None if proven else " ".join(filter(None, (account, as_caller(address))))
    await audit.note_denied(Event(action, client_id, connection.url.path, "denied", metadata), stranger)
