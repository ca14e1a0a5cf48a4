"""Records each denied request in the audit log. Every service does this in the same way."""

from __future__ import annotations

from typing import Any, cast

from starlette.requests import HTTPConnection

from artstore.audit.event import Event
from artstore.audit.writer import AuditWriter
from artstore.auth.tokens import Principal
from artstore.errors import ArtStoreError, LinkRefused
from artstore.limits.gate import Limits
from artstore.logs import request_id

UNKNOWN = "-"
LOGIN = "auth:token"


async def record_denial(
    connection: HTTPConnection,
    error: ArtStoreError,
    caller: Principal | None = None,
) -> None:
    """Records who was refused, what, and from which address. Never raises: a failed record does not change
    the refusal. Denials without a caller are aggregated by address."""
    user_id, named = (UNKNOWN, None) if caller is None else (caller.subject, caller.client_id)
    metadata = _metadata(connection, error, error.detail, named)
    ids = list(connection.scope.get("path_params", {}).values())
    resource = str(ids[0]) if len(ids) == 1 else connection.url.path
    event = Event("access:denied", user_id, resource, "denied", {"path": connection.url.path, **metadata})
    await _record(connection, event, _address(connection) if caller is None else None)


async def record_refused_login(
    connection: HTTPConnection, error: ArtStoreError, client_id: str, *, reason: str, account_id: str | None
) -> None:
    """`reason` is for auditors: it says more than the answer to the caller. `account_id` is set if the account exists.
    Aggregated by address and account, because the caller has not authenticated."""
    metadata = _metadata(connection, error, reason, client_id)
    event = Event(LOGIN, account_id or UNKNOWN, account_id or client_id, "denied", metadata)
    await _record(connection, event, " ".join(filter(None, (account_id, _address(connection)))))


async def record_denied_link(connection: HTTPConnection, error: LinkRefused) -> None:
    """The link itself, a secret, is not recorded. Aggregated by address, apart from other denials; by account and file too
    where this system has signed the link, so that forged links from the same address hide no use of it."""
    user_id, resource = (UNKNOWN, UNKNOWN) if error.link is None else (error.link.account, error.link.file_id)
    event = Event("link:use", user_id, resource, "denied", _metadata(connection, error, error.detail, None))
    await _record(connection, event, f"link {user_id} {resource} {_address(connection)}")


def _metadata(connection: HTTPConnection, error: ArtStoreError, reason: str, client_id: str | None) -> dict[str, Any]:
    metadata = {
        "method": connection.scope.get("method", UNKNOWN),
        "code": error.code,
        "reason": reason,
        "address": str(cast(Limits, connection.app.state.limits).find_client(connection.scope) or UNKNOWN),
        "request_id": request_id.get(),
    }
    return metadata if client_id is None else {**metadata, "client_id": client_id}


def _address(connection: HTTPConnection) -> str:
    return cast(Limits, connection.app.state.limits).address_of(connection.scope)


async def _record(connection: HTTPConnection, event: Event, caller: str | None) -> None:
    await cast(AuditWriter, connection.app.state.runtime.audit).record_denial(event, caller)
