"""Records each denied request in the audit log. Every service does this in the same way."""

from __future__ import annotations

from typing import cast

from starlette.requests import HTTPConnection

from artstore.audit.event import Event
from artstore.audit.writer import AuditWriter
from artstore.errors import ArtStoreError
from artstore.limits.addresses import as_caller
from artstore.limits.gate import Limits
from artstore.logs import request_id

UNKNOWN = "-"
LOGIN = "auth.token"


async def record_denial(
    connection: HTTPConnection,
    error: ArtStoreError,
    client_id: str = UNKNOWN,
    *,
    action: str = "access.denied",
    reason: str | None = None,
    account: str | None = None,
) -> None:
    """Records who was refused, what, and from which address. Never raises: a failed record does not change
    the refusal.

    `reason` is for auditors, where it says more than the answer to the caller. The action LOGIN is refused
    before the caller has authenticated: it is aggregated by address, and by `account` when that account
    exists.
    """
    audit = cast(AuditWriter, connection.app.state.runtime.audit)
    limits = cast(Limits, connection.app.state.limits)
    address = limits.find_client(connection.scope)
    authenticated = client_id != UNKNOWN and action != LOGIN
    metadata = {
        "method": connection.scope.get("method", UNKNOWN),
        "code": error.code,
        "reason": reason or error.detail,
        "address": str(address or UNKNOWN),
        "request_id": request_id.get(),
    }
    caller = None if authenticated else " ".join(filter(None, (account, as_caller(address))))
    await audit.record_denial(Event(action, client_id, connection.url.path, "denied", metadata), caller)
