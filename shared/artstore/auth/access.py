"""The permission that each endpoint of each service requires, and the function that checks it and the account's rate limit."""

from __future__ import annotations

from typing import Any, cast

from starlette.requests import HTTPConnection

from artstore.audit.access_denied import record_denial
from artstore.auth.tokens import Principal, TokenVerifier
from artstore.contracts.tokens import Audience, Permission
from artstore.errors import Forbidden, Unauthenticated
from artstore.limits.gate import PRINCIPAL

P = Permission

PUBLIC: dict[str, Permission | None] = {
    "GET /health/live": None,
    "GET /health/ready": None,
    "GET /metrics": None,
    "GET /docs": None,
    "GET /docs/{name}": None,
    "GET /openapi.json": None,
}

ENDPOINTS: dict[Audience, dict[str, Permission | None]] = {
    Audience.ADMIN: {
        **PUBLIC,
        "POST /api/auth/token": None,
        "GET /.well-known/jwks.json": None,
        "GET /.well-known/oauth-authorization-server": None,
        "POST /api/auth/links": P.STORAGE_READ,  # who may read any file at an element may also hand it on
        "GET /api/auth/keys": P.KEYS_READ,
        "POST /api/auth/keys/rotate": P.KEYS_WRITE,
        "POST /api/auth/keys/{kid}/revoke": P.KEYS_WRITE,
        "GET /api/service-accounts": P.ACCOUNTS_READ,
        "POST /api/service-accounts": P.ACCOUNTS_WRITE,
        "GET /api/service-accounts/{account_id}": P.ACCOUNTS_READ,
        "PATCH /api/service-accounts/{account_id}": P.ACCOUNTS_WRITE,
        "DELETE /api/service-accounts/{account_id}": P.ACCOUNTS_WRITE,
        "POST /api/service-accounts/{account_id}/rotate-secret": P.ACCOUNTS_WRITE,
        "GET /api/storage-elements": P.ELEMENTS_READ,
        "POST /api/storage-elements": P.ELEMENTS_WRITE,
        "GET /api/storage-elements/{element_id}": P.ELEMENTS_READ,
        "PATCH /api/storage-elements/{element_id}": P.ELEMENTS_WRITE,
        "DELETE /api/storage-elements/{element_id}": P.ELEMENTS_WRITE,
        "POST /api/storage-elements/{element_id}/report": P.ELEMENTS_REPORT,
        "POST /api/storage-elements/{element_id}/mode": P.ELEMENTS_WRITE,
        "POST /api/storage-elements/{element_id}/rebuild": P.ELEMENTS_WRITE,
        "POST /api/storage-elements/{element_id}/verify": P.ELEMENTS_WRITE,
        "POST /api/storage-elements/{element_id}/accept-root": P.ELEMENTS_WRITE,
        "POST /api/sagas/uploads": P.SAGAS_WRITE,
        "POST /api/sagas/commit": P.SAGAS_WRITE,
        "POST /api/sagas/commit-batch": P.SAGAS_WRITE,
        "POST /api/sagas/abort": P.SAGAS_WRITE,
        "POST /api/sagas/changes": P.SAGAS_WRITE,
        "POST /api/sagas/claims": P.SAGAS_WRITE,
        "POST /api/sagas/claims/commit": P.SAGAS_WRITE,
        "POST /api/sagas/claims/abort": P.SAGAS_WRITE,
        "GET /api/sagas": P.SAGAS_READ,
        "GET /api/sagas/{saga_id}": P.SAGAS_READ,
        "GET /api/audit": P.AUDIT_READ,
        "GET /api/audit/verify": P.AUDIT_READ,
        "GET /api/audit/checkpoints": P.AUDIT_READ,
        "GET /api/audit/archive": P.AUDIT_READ,
        "GET /api/audit/seals": P.AUDIT_READ,
        "POST /api/audit/seals": P.AUDIT_WRITE,
        "POST /api/audit/prune": P.AUDIT_WRITE,
    },
    Audience.STORAGE: {
        **PUBLIC,
        "GET /api/files": P.STORAGE_READ,
        "GET /api/files/contents": P.STORAGE_READ,
        "GET /api/files/{file_id}": P.STORAGE_READ,
        "PUT /api/files/{file_id}": P.STORAGE_WRITE,
        "POST /api/files/put-group": P.STORAGE_WRITE,
        "PATCH /api/files/{file_id}": P.STORAGE_WRITE,
        "DELETE /api/files/{file_id}": P.STORAGE_WRITE,
        "POST /api/files/{file_id}/copy": P.STORAGE_WRITE,
        "GET /api/files/{file_id}/content": P.STORAGE_READ,
        "HEAD /api/files/{file_id}/content": P.STORAGE_READ,
        "PUT /api/files/{file_id}/content": P.STORAGE_WRITE,
        "POST /api/uploads": P.STORAGE_WRITE,
        "GET /api/uploads/{upload_id}": P.STORAGE_WRITE,
        "PATCH /api/uploads/{upload_id}": P.STORAGE_WRITE,
        "DELETE /api/uploads/{upload_id}": P.STORAGE_WRITE,
        "POST /api/uploads/{upload_id}/complete": P.STORAGE_WRITE,
        "POST /api/uploads/{upload_id}/settle": P.STORAGE_WRITE,
        "GET /api/element": P.STORAGE_READ,
        "POST /api/element/mode": P.STORAGE_WRITE,
        "POST /api/element/rebuild": P.STORAGE_WRITE,
        "POST /api/element/verify": P.STORAGE_WRITE,
        "GET /api/links/{link}": None,
        "HEAD /api/links/{link}": None,
    },
    Audience.INGESTER: {
        **PUBLIC,
        "POST /api/files/upload": P.FILES_WRITE,
        "POST /api/files/batch": P.FILES_WRITE,
        "GET /api/files/{file_id}": P.FILES_READ,
        "GET /api/files/{file_id}/content": P.FILES_READ,
        "PATCH /api/files/{file_id}": P.FILES_WRITE,
        "PUT /api/files/{file_id}": P.FILES_WRITE,
        "PUT /api/files/{file_id}/content": P.FILES_WRITE,
        "DELETE /api/files/{file_id}": P.FILES_DELETE,
        "GET /api/sagas/{saga_id}": P.FILES_READ,
        "OPTIONS /api/uploads": None,
        "POST /api/uploads": P.FILES_WRITE,
        "OPTIONS /api/uploads/{upload_id}": None,
        "GET /api/uploads/{upload_id}": P.FILES_WRITE,
        "HEAD /api/uploads/{upload_id}": P.FILES_WRITE,
        "POST /api/uploads/{upload_id}": P.FILES_WRITE,
        "PATCH /api/uploads/{upload_id}": P.FILES_WRITE,
        "DELETE /api/uploads/{upload_id}": P.FILES_WRITE,
    },
    Audience.QUERY: {
        **PUBLIC,
        "GET /api/files": P.FILES_READ,
        "GET /api/changes": P.FILES_READ,
        "GET /api/files/{file_id}": P.FILES_READ,
        "GET /api/files/{file_id}/content": P.FILES_READ,
        "HEAD /api/files/{file_id}/content": P.FILES_READ,
        "POST /api/files/{file_id}/links": P.FILES_READ,
        "GET /api/links/{link}": None,
        "HEAD /api/links/{link}": None,
    },
}


async def authorize(connection: HTTPConnection, needed: Permission | None) -> None:
    """Raises Unauthenticated, Forbidden or RateLimited. Afterwards `principal_of(request)` is the caller,
    unless `needed` is None (public)."""
    if needed is None:
        return
    verifier = cast(TokenVerifier, connection.app.state.context.verifier)
    token = None
    try:
        token = bearer_token(connection)
        principal = await verifier.verify(token)
    except Unauthenticated as error:
        error.token_refused = token is not None
        await record_denial(connection, error)
        raise
    connection.scope.setdefault("state", {})[PRINCIPAL] = principal
    await connection.app.state.limits.admit(connection, principal)
    if needed not in principal.permissions:
        refusal = Forbidden(f"the permission {needed.value} is required", permission=needed.value)
        await record_denial(connection, refusal, principal)
        raise refusal


def bearer_token(connection: HTTPConnection) -> str:
    """The bearer token of the Authorization header (RFC 6750 §2.1); query parameters are not accepted. Raises
    Unauthenticated."""
    values = [value for name, value in connection.scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        raise Unauthenticated("send exactly one Authorization header" if values else "the access token is missing")
    given: bytes = values[0]
    scheme, _, token = given.decode("latin-1").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("the Authorization header must be: Bearer TOKEN")
    return token


def principal_of(connection: HTTPConnection) -> Principal:
    """The authenticated caller, set by `authorize`."""
    state: dict[str, Any] = connection.scope["state"]
    return cast(Principal, state[PRINCIPAL])
