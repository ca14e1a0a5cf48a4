"""POST /api/auth/token: a data route, since every module and every user calls it. Its description for clients is at
/.well-known/oauth-authorization-server."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.access_denied import record_refused_login
from artstore.contracts.schemas import component
from artstore.contracts.tokens import INTERNAL_WRITES, Permission
from artstore.errors import ArtStoreError, InvalidScope, Unavailable
from artstore.http.body import read_body
from artstore.http.data_routes import DataRoute
from artstore.http.json import JsonResponse
from artstore.http.openapi import PROBLEM_RESPONSE, REQUEST_ID, TEXT_SCHEMA, answer, object_schema, operation
from artstore.http.origin import origin_of
from artstore.http.problems import problem_response
from artstore.limits.gate import TOKEN_PATH, Limits

from ..core.context import Context, context_of
from ..identity.accounts import Account
from ..identity.credentials import (
    CLIENT_ID,
    FORM,
    GRANT_TYPE,
    JSON,
    Credentials,
    OAuthError,
    is_well_formed,
    parse_credentials,
)
from ..identity.issue import LoginRefused, narrow
from ..identity.secrets import MAX_SECRET_CHARS

MAX_BODY_BYTES = 8192
MAX_NAME_CHARS = 128
"""Longest client_id written to the audit log, since callers can send any text."""
SCOPES = sorted(permission.value for permission in frozenset(Permission) - INTERNAL_WRITES)
NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


async def give_token(request: Request) -> Response:
    context = context_of(request)
    form = request.headers.get("content-type", "").lower().startswith(FORM)
    try:
        body = await read_body(request, MAX_BODY_BYTES)
        credentials = parse_credentials(request.headers.get("content-type", ""), _authorization(request), body)
        account = await _login(request, context, credentials)
        permissions = narrow(account, credentials.scope)
        access_token, lifetime_s = context.issuer.issue(account, permissions)
    except OAuthError as error:
        return _oauth_problem(error)
    except LoginRefused as error:
        if form:
            return _oauth_problem(OAuthError("invalid_client", error.detail, status=401, basic=credentials.basic))
        return _no_store(problem_response(error))
    except ArtStoreError as error:
        if form and isinstance(error, InvalidScope):
            return _oauth_problem(OAuthError(error.code, error.detail))
        if form and isinstance(error, Unavailable):
            return _oauth_problem(OAuthError("temporarily_unavailable", error.detail, status=503), error.headers())
        return _no_store(problem_response(error))
    answer = {"access_token": access_token, "token_type": "Bearer", "expires_in": lifetime_s}
    if credentials.scope:
        answer["scope"] = " ".join(sorted(permissions))
    return JsonResponse(orjson.dumps(answer), headers=NO_STORE)


async def show_metadata(request: Request) -> Response:
    """RFC 8414. `issuer` is an address, as the RFC demands, although the tokens' `iss` is a name: a client looks at no
    token, and the modules that verify tokens know the name."""
    base = origin_of(request, context_of(request).settings.public_url)
    metadata = {
        "issuer": base,
        "token_endpoint": f"{base}{TOKEN_PATH}",
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "grant_types_supported": [GRANT_TYPE],
        "response_types_supported": [],
        "scopes_supported": SCOPES,
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }
    return JsonResponse(metadata, headers={"cache-control": "no-cache"})


def _authorization(request: Request) -> str | None:
    """Raises OAuthError for two headers, because a proxy in front may have checked the other one."""
    values = request.headers.getlist("authorization")
    if len(values) > 1:
        raise OAuthError("invalid_request", "there must be at most one Authorization header")
    return values[0] if values else None


async def _login(request: Request, context: Context, credentials: Credentials) -> Account:
    limits: Limits = request.app.state.limits
    try:
        if not is_well_formed(credentials):
            raise LoginRefused("malformed")
        account = await context.issuer.authenticate(credentials.client_id, credentials.client_secret)
    except LoginRefused as error:
        shown = credentials.client_id.encode("ascii", "backslashreplace").decode()
        name = "".join(char if char.isprintable() else "?" for char in shown)[:MAX_NAME_CHARS]
        await record_refused_login(request, error, name, reason=error.reason, account_id=error.account)
        await limits.fail_login(request, name)
        raise
    # Before the signature, which is the expensive part of a login.
    await limits.admit_login(request, str(account.account_id), account.rate_per_minute)
    return account


def _oauth_problem(error: OAuthError, headers: dict[str, str] | None = None) -> Response:
    """RFC 6749 §5.2."""
    challenge = {"www-authenticate": 'Basic realm="artstore"'} if error.status == 401 else {}
    body = orjson.dumps({"error": error.error, "error_description": error.description})
    return JsonResponse(body, error.status, {**NO_STORE, **challenge, **(headers or {})})


def _no_store(response: Response) -> Response:
    response.headers.update(NO_STORE)
    return response


_CREDENTIALS = {
    "client_id": {"type": "string", "pattern": f"^{CLIENT_ID.pattern}$"},
    "client_secret": {"type": "string", "minLength": 1, "maxLength": MAX_SECRET_CHARS},
}
_ONE_SCOPE = f"({'|'.join(SCOPES)})"
_SCOPE = {
    "scope": {
        "type": "string",
        "pattern": f"^({_ONE_SCOPE}( {_ONE_SCOPE})*)?$",
        "description": "Permissions for the token, separated by spaces; by default all",
    }
}
_LOGIN = component("ClientCredentials", object_schema(_CREDENTIALS, _SCOPE))
_FORM = component(
    "TokenForm",
    object_schema({"grant_type": {"type": "string", "enum": [GRANT_TYPE]}, **_CREDENTIALS}, _SCOPE)
    | {"description": "Without client_id and client_secret when they are in HTTP Basic"},
)
_TOKEN: dict[str, Any] = object_schema(
    {
        "access_token": TEXT_SCHEMA,
        "token_type": {"type": "string", "enum": ["Bearer"]},
        "expires_in": {"type": "integer"},
    },
    {"scope": {"type": "string", "description": "The token's permissions, when the request has a scope"}},
)
_TOKEN = component("AccessToken", _TOKEN)
_OAUTH_ERROR = component("OAuthError", object_schema({"error": TEXT_SCHEMA}, {"error_description": TEXT_SCHEMA}))


_TEXTS = {"type": "array", "items": TEXT_SCHEMA}
_URI = {"type": "string", "format": "uri"}
_METADATA = component(
    "AuthorizationServer",
    object_schema(
        {
            **dict.fromkeys(("issuer", "token_endpoint", "jwks_uri"), _URI),
            **dict.fromkeys(("grant_types_supported", "response_types_supported", "scopes_supported"), _TEXTS),
            "token_endpoint_auth_methods_supported": _TEXTS,
        }
    ),
)


def _refusal(description: str) -> dict[str, Any]:
    refusal = answer(description, _OAUTH_ERROR)
    refusal["content"].update(PROBLEM_RESPONSE["content"])
    return refusal


_GIVE_TOKEN = operation(
    "An access token for client credentials: JSON, or the form of RFC 6749 with or without Basic",
    operation_id="give_token",
    tag="tokens",
    parameters=[REQUEST_ID],
    body={JSON: _LOGIN, FORM: _FORM},
    responses={
        "200": answer("The token", _TOKEN),
        "400": _refusal("The request is malformed"),
        "401": _refusal("The credentials are not valid"),
        "503": _refusal("The accounts cannot be read now"),
    },
)
_SHOW_METADATA = operation(
    "The endpoints and abilities of this authorization server (RFC 8414)",
    operation_id="show_metadata",
    tag="tokens",
    responses={"200": answer("The metadata", _METADATA)},
)
ROUTES = [
    DataRoute(TOKEN_PATH, ["POST"], give_token, {"post": _GIVE_TOKEN}),
    DataRoute("/.well-known/oauth-authorization-server", ["GET"], show_metadata, {"get": _SHOW_METADATA}),
]
